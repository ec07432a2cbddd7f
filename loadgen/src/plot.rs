//! Latency as pictures: by percentile, and by throughput. SVG, drawn without fonts or system libraries.
//!
//! A whole picture is made in memory and then written, so a file is complete or an error names it.

use std::fs;
use std::path::{Path, PathBuf};

use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use serde_json::Value;

use crate::progress::{latency_text, rate_text};

const WIDTH_PX: u32 = 960;
/// Of title, picture and axes; the legend comes below it, where it covers no line.
const CHART_HEIGHT_PX: u32 = 560;
const LEGEND_ROW_PX: u32 = 22;
const LEGEND_MARGIN_PX: u32 = 12;
/// Characters of a title or a legend's row that fit the width.
const TITLE_CHARACTERS_MAX: usize = 90;
const LABEL_CHARACTERS_MAX: usize = 115;

const TITLE_SIZE: i32 = 24;
const TEXT_SIZE: i32 = 16;

/// Okabe and Ito's colours, told apart by colour-blind people too; without their yellow, which is too light for a line.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0x00, 0x72, 0xB2),
    RGBColor(0xD5, 0x5E, 0x00),
    RGBColor(0x00, 0x9E, 0x73),
    RGBColor(0xCC, 0x79, 0xA7),
    RGBColor(0xE6, 0x9F, 0x00),
    RGBColor(0x56, 0xB4, 0xE9),
    RGBColor(0x00, 0x00, 0x00),
];

/// Lines of one picture: each colour whole and dashed. More could not be told apart.
pub const SERIES_MAX: usize = 2 * COLOURS.len();

/// Latencies below do not occur, and have no place on a logarithmic axis.
const LEAST_US: f64 = 0.001;

/// Labels that fit the axis of latencies.
const LATENCY_TICKS_MAX: usize = 14;

/// Longest tail shown, as samples per sample beyond: 99.9999999 %.
const TAIL_MAX: f64 = 1e9;

/// Why there is no picture. Nothing was written, but for [`PlotError::Write`].
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    #[error("{} cannot be read: {error}", path.display())]
    Read {
        path: PathBuf,
        error: std::io::Error,
    },
    #[error("{} is not JSON: {error}", path.display())]
    Json {
        path: PathBuf,
        error: serde_json::Error,
    },
    #[error("{} has no picture: {error}", path.display())]
    Record { path: PathBuf, error: RecordError },
    #[error(
        "{} is of a sweep and {} is not: they cannot be in one picture",
        sweep.display(),
        run.display()
    )]
    Mixed { run: PathBuf, sweep: PathBuf },
    #[error("there is nothing to draw")]
    Nothing,
    #[error("{given} lines in one picture could not be told apart; at most {SERIES_MAX} are drawn")]
    TooMany { given: usize },
    #[error("the picture cannot be drawn: {0}")]
    Draw(String),
    #[error("{} cannot be written: {error}", path.display())]
    Write {
        path: PathBuf,
        error: std::io::Error,
    },
}

/// What a record lacks.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecordError {
    #[error("it is a record of schema {found}, and only schema 2 has curves")]
    Schema { found: String },
    #[error("it is of a comparison, and only records of single runs can be drawn")]
    Comparison,
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field} is empty: nothing was measured")]
    Empty { field: &'static str },
    #[error("{field} has something else than numbers in it")]
    NotNumbers { field: &'static str },
}

/// One line of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    pub label: String,
    /// Of percentiles: `(quantile 0..=1, latency in microseconds)`. Of a sweep: `(delivered/s, latency in microseconds)`.
    pub points: Vec<(f64, f64)>,
}

/// What one record shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Curve {
    ByPercentile(Series),
    /// The median and the 99th percentile.
    ByThroughput([Series; 2]),
}

/// Draws latency by percentile, both axes logarithmic: the quantile by what is beyond it, `1 / (1 - q)`.
///
/// The maximum, quantile 1, would be infinitely far out. It stands half the remaining distance beyond the last quantile
/// before it.
pub fn latency_by_percentile(title: &str, series: &[Series], out: &Path) -> Result<(), PlotError> {
    write(out, percentile_svg(title, series)?)
}

/// Draws latency by what was delivered each second.
///
/// - `series`: of each sweep two, the median and then the 99th percentile. They share a colour; the median is dashed.
pub fn latency_by_throughput(title: &str, series: &[Series], out: &Path) -> Result<(), PlotError> {
    write(out, throughput_svg(title, series)?)
}

/// Draws what the records in the files show: latency by percentile, or of sweeps by throughput.
///
/// - `title`: `None` for one that says what the axes are.
/// - `records`: paths of JSON records of schema 2.
pub fn plot_records(title: Option<&str>, records: &[PathBuf], out: &Path) -> Result<(), PlotError> {
    let mut curves = Vec::with_capacity(records.len());
    for path in records {
        let text = fs::read(path).map_err(|error| PlotError::Read {
            path: path.clone(),
            error,
        })?;
        let json = serde_json::from_slice(&text).map_err(|error| PlotError::Json {
            path: path.clone(),
            error,
        })?;
        let curve = series_of_record(&json).map_err(|error| PlotError::Record {
            path: path.clone(),
            error,
        })?;
        curves.push((path.clone(), curve));
    }
    write(out, svg_of(title, curves)?)
}

/// Reads from a record of schema 2 what can be drawn of it: the sweep if it has one, else the latency, of messages or of
/// replaced connections.
///
/// The label is the record's `label` if it has one, else its target and workload.
pub fn series_of_record(json: &Value) -> Result<Curve, RecordError> {
    match &json["schema"] {
        Value::Null => return Err(RecordError::Missing { field: "schema" }),
        schema if schema.as_u64() == Some(2) => {}
        schema => {
            return Err(RecordError::Schema {
                found: schema.to_string(),
            });
        }
    }
    if json["runs"].is_array() {
        return Err(RecordError::Comparison);
    }
    let text = |field| {
        let value = json[field].as_str();
        value.ok_or(RecordError::Missing { field })
    };
    let label = match json["label"].as_str() {
        Some(label) => label.to_owned(),
        None => format!("{}, {}", text("target")?, text("workload")?),
    };
    if !json["sweep"].is_null() {
        return sweep_of(&label, &json["sweep"]).map(Curve::ByThroughput);
    }
    let points = if json["traffic"].is_null() && !json["churn"].is_null() {
        percentiles_of("churn.latency.percentiles", &json["churn"]["latency"])?
    } else {
        percentiles_of("traffic.latency.percentiles", &json["traffic"]["latency"])?
    };
    Ok(Curve::ByPercentile(Series { label, points }))
}

/// - `field`: the name of the percentiles, for errors.
fn percentiles_of(field: &'static str, latency: &Value) -> Result<Vec<(f64, f64)>, RecordError> {
    let rows = latency["percentiles"].as_array();
    let rows = rows.ok_or(RecordError::Missing { field })?;
    let points: Option<Vec<_>> = rows
        .iter()
        .map(|row| Some((row[0].as_f64()?, row[1].as_f64()?)))
        .collect();
    match points {
        Some(points) if points.is_empty() => Err(RecordError::Empty { field }),
        Some(points) => Ok(points),
        None => Err(RecordError::NotNumbers { field }),
    }
}

fn sweep_of(label: &str, json: &Value) -> Result<[Series; 2], RecordError> {
    let field = "sweep.steps";
    let steps = json["steps"]
        .as_array()
        .ok_or(RecordError::Missing { field })?;
    let mut rows = Vec::with_capacity(steps.len());
    for step in steps {
        let number = |key: &str| step[key].as_f64().ok_or(RecordError::NotNumbers { field });
        let delivered_per_s = number("delivered_per_s")?;
        // A step in which nothing arrived has no latency.
        if delivered_per_s > 0.0 {
            let rate_per_s = number("rate_per_s")?;
            rows.push((
                rate_per_s,
                delivered_per_s,
                number("p50_us")?,
                number("p99_us")?,
            ));
        }
    }
    if rows.is_empty() {
        return Err(RecordError::Empty { field });
    }
    // Lines are drawn from the lowest rate to the highest, in whatever order they were tried.
    rows.sort_by(|one, other| one.0.total_cmp(&other.0));
    let knee = match json["knee_per_s"].as_f64() {
        Some(knee) => format!(", knee at {}", rate_text(knee)),
        None => String::new(),
    };
    let p50 = rows.iter().map(|&(_, delivered, p50, _)| (delivered, p50));
    let p99 = rows.iter().map(|&(_, delivered, _, p99)| (delivered, p99));
    Ok([
        Series {
            label: format!("p50 of {label}{knee}"),
            points: p50.collect(),
        },
        Series {
            label: format!("p99 of {label}{knee}"),
            points: p99.collect(),
        },
    ])
}

/// One picture has one pair of axes, so all curves have to be of one kind.
fn svg_of(title: Option<&str>, curves: Vec<(PathBuf, Curve)>) -> Result<String, PlotError> {
    let (mut runs, mut sweeps) = (Vec::new(), Vec::new());
    let (mut first_run, mut first_sweep) = (None, None);
    for (path, curve) in curves {
        match curve {
            Curve::ByPercentile(series) => {
                runs.push(series);
                first_run.get_or_insert(path);
            }
            Curve::ByThroughput(pair) => {
                sweeps.extend(pair);
                first_sweep.get_or_insert(path);
            }
        }
    }
    match (first_run, first_sweep) {
        (Some(run), Some(sweep)) => Err(PlotError::Mixed { run, sweep }),
        (_, None) => percentile_svg(title.unwrap_or("Latency by percentile"), &runs),
        (None, Some(_)) => throughput_svg(title.unwrap_or("Latency by throughput"), &sweeps),
    }
}

fn write(out: &Path, svg: String) -> Result<(), PlotError> {
    fs::write(out, svg).map_err(|error| PlotError::Write {
        path: out.to_owned(),
        error,
    })
}

/// A line as it is drawn.
struct Line {
    label: String,
    style: ShapeStyle,
    is_dashed: bool,
    /// Marks where it was measured.
    has_dots: bool,
    /// In the units of the axes.
    points: Vec<(f64, f64)>,
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

fn percentile_svg(title: &str, series: &[Series]) -> Result<String, PlotError> {
    let lines: Vec<Line> = series
        .iter()
        .enumerate()
        .map(|(index, series)| Line {
            label: series.label.clone(),
            style: colour(index).stroke_width(2),
            is_dashed: index >= COLOURS.len(),
            has_dots: false,
            points: by_tail(&series.points),
        })
        .collect();
    let bounds = Bounds::of(&lines)?;
    let tail = bounds.x_max.max(2.0);
    let x = (1.0..tail)
        .log_scale()
        .with_key_points(percentile_ticks(tail));
    svg(
        title,
        &lines,
        x,
        "Percentile (the line ends at the maximum)",
        &|tail| percentile_text(*tail),
        bounds.y,
    )
}

fn throughput_svg(title: &str, series: &[Series]) -> Result<String, PlotError> {
    let lines: Vec<Line> = series
        .iter()
        .enumerate()
        .map(|(index, series)| Line {
            label: series.label.clone(),
            style: colour(index / 2).stroke_width(2),
            is_dashed: index % 2 == 0,
            has_dots: true,
            points: series
                .points
                .iter()
                .copied()
                .filter_map(on_log_axis)
                .collect(),
        })
        .collect();
    let bounds = Bounds::of(&lines)?;
    // A little room, so that the last point does not lie on the frame.
    let x = 0.0..(bounds.x_max * 1.03).max(1.0);
    svg(
        title,
        &lines,
        x,
        "Delivered (messages/s)",
        &|per_s| {
            rate_text(*per_s)
                .trim_end_matches("/s")
                .trim_end()
                .to_owned()
        },
        bounds.y,
    )
}

/// From quantiles to what is beyond them.
fn by_tail(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let points = points.iter().filter_map(|&point| on_log_axis(point));
    let mut tail_before = 1.0_f64;
    let mut by_tail = Vec::new();
    for (quantile, us) in points {
        let tail = if quantile >= 1.0 {
            2.0 * tail_before
        } else {
            1.0 / (1.0 - quantile.max(0.0))
        };
        tail_before = tail.min(TAIL_MAX);
        by_tail.push((tail_before, us));
    }
    by_tail
}

/// Leaves out what is no number.
fn on_log_axis((x, us): (f64, f64)) -> Option<(f64, f64)> {
    (x.is_finite() && us.is_finite()).then(|| (x, us.max(LEAST_US)))
}

struct Bounds {
    x_max: f64,
    /// From a 1, 2 or 5 below all values to one above.
    y: (f64, f64),
}

impl Bounds {
    fn of(lines: &[Line]) -> Result<Self, PlotError> {
        if lines.len() > SERIES_MAX {
            return Err(PlotError::TooMany { given: lines.len() });
        }
        let mut points = lines.iter().flat_map(|line| &line.points).peekable();
        if points.peek().is_none() {
            return Err(PlotError::Nothing);
        }
        let (mut x_max, mut least, mut most) = (0.0_f64, f64::INFINITY, 0.0_f64);
        for &(x, y) in points {
            x_max = x_max.max(x);
            least = least.min(y);
            most = most.max(y);
        }
        let below = one_two_five(least / 10.0, least / 1.001)
            .into_iter()
            .next_back();
        let above = one_two_five(most * 1.001, most * 10.0).into_iter().next();
        Ok(Self {
            x_max,
            y: (below.unwrap_or(least / 2.0), above.unwrap_or(most * 2.0)),
        })
    }
}

/// The numbers 1, 2 and 5 times a power of ten in `from..=to`, both positive, ascending.
fn one_two_five(from: f64, to: f64) -> Vec<f64> {
    let decades = from.log10().floor() as i32..=to.log10().ceil() as i32;
    decades
        .flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(exponent)))
        .filter(|number| (from..=to).contains(number))
        .collect()
}

/// What is labelled on the axis of latencies: as much of it as can be read.
fn latency_ticks((from, to): (f64, f64)) -> Vec<f64> {
    let ticks = one_two_five(from, to);
    if ticks.len() <= LATENCY_TICKS_MAX {
        return ticks;
    }
    let is_decade = |number: &f64| (number.log10() - number.log10().round()).abs() < 1e-6;
    ticks.into_iter().filter(is_decade).collect()
}

/// 0 %, 50 %, 90 %, and then a nine more each.
fn percentile_ticks(tail: f64) -> Vec<f64> {
    let nines = (1..).map(|nines| 10_f64.powi(nines));
    let nines = nines.take_while(|&tick| tick <= tail);
    [1.0, 2.0].into_iter().chain(nines).collect()
}

fn percentile_text(tail: f64) -> String {
    // Two nines are in the whole number; each further one is a decimal.
    let decimals = (tail.log10().round() as usize).saturating_sub(2);
    format!("{:.decimals$} %", 100.0 - 100.0 / tail)
}

fn svg<X>(
    title: &str,
    lines: &[Line],
    x: X,
    x_title: &str,
    x_text: &dyn Fn(&f64) -> String,
    y: (f64, f64),
) -> Result<String, PlotError>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let legend_height = LEGEND_ROW_PX * lines.len() as u32 + LEGEND_MARGIN_PX;
    let mut svg = String::new();
    {
        let size = (WIDTH_PX, CHART_HEIGHT_PX + legend_height);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE).map_err(drawn)?;
        let (chart, legend) = root.split_vertically(CHART_HEIGHT_PX);
        let text = ("sans-serif", TEXT_SIZE).into_font();
        let mut chart = ChartBuilder::on(&chart)
            .caption(
                shortened(title, TITLE_CHARACTERS_MAX),
                ("sans-serif", TITLE_SIZE),
            )
            .margin(12)
            // The last label of the axis is centred below the frame's corner.
            .margin_right(36)
            .x_label_area_size(56)
            .y_label_area_size(84)
            .build_cartesian_2d(x, (y.0..y.1).log_scale().with_key_points(latency_ticks(y)))
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .bold_line_style(BLACK.mix(0.15))
            .light_line_style(TRANSPARENT)
            .x_desc(x_title)
            .x_label_formatter(&x_text)
            .y_desc("Latency (log scale)")
            .y_label_formatter(&|us| latency_text(*us))
            .draw()
            .map_err(drawn)?;
        for line in lines {
            let points = line.points.iter().copied();
            if line.is_dashed {
                chart.draw_series(DashedLineSeries::new(points.clone(), 7, 5, line.style))
            } else {
                chart.draw_series(LineSeries::new(points.clone(), line.style))
            }
            .map_err(drawn)?;
            if line.has_dots {
                let dots = points.map(|point| Circle::new(point, 3, line.style.filled()));
                chart.draw_series(dots).map_err(drawn)?;
            }
        }
        for (row, line) in lines.iter().enumerate() {
            let y = LEGEND_ROW_PX as i32 * row as i32 + LEGEND_ROW_PX as i32 / 2;
            // Strokes of the line itself, two of them if it is dashed.
            let strokes: &[_] = match line.is_dashed {
                true => &[(96, 106), (114, 124)],
                false => &[(96, 124)],
            };
            for &(from, to) in strokes {
                let stroke = PathElement::new(vec![(from, y), (to, y)], line.style);
                legend.draw(&stroke).map_err(drawn)?;
            }
            let label = shortened(&line.label, LABEL_CHARACTERS_MAX);
            // The text's own height is not known here; half of its capitals' is close enough.
            let place = (134, y - TEXT_SIZE * 2 / 5);
            legend
                .draw(&Text::new(label, place, text.clone()))
                .map_err(drawn)?;
        }
        root.present().map_err(drawn)?;
    }
    Ok(svg)
}

fn drawn(error: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

/// Control characters have no place in XML, and a line break none in one line.
fn shortened(text: &str, characters_max: usize) -> String {
    let mut characters = text.chars().map(|character| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    });
    let mut short: String = characters.by_ref().take(characters_max).collect();
    if characters.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A folder of the test's own, gone with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn of(test: &str) -> Self {
            let folder = format!("slim-plot-{}-{test}", std::process::id());
            let folder = std::env::temp_dir().join(folder);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn file(&self, name: &str, json: &Value) -> PathBuf {
            let path = self.path(name);
            fs::write(&path, json.to_string()).unwrap();
            path
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            // A folder that stays is in nobody's way.
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn record() -> Value {
        json!({
            "schema": 2,
            "target": "slim://127.0.0.1:1",
            "workload": "ping: 1 pair(s), 1 in flight each",
            "sweep": null,
            "traffic": {"latency": {"percentiles": [
                [0.0, 9.5], [0.5, 21.25], [0.9, 40.0], [0.99, 180.0], [0.999, 2_100.0], [1.0, 12_000]
            ]}},
        })
    }

    fn sweep_record() -> Value {
        let step = |rate: f64, p50: f64, p99: f64| {
            json!({"rate_per_s": rate, "delivered_per_s": rate * 0.99, "p50_us": p50, "p99_us": p99,
                   "held": true, "why": null})
        };
        let mut record = record();
        record["label"] = json!("swept <here> & there");
        record["sweep"] = json!({
            "knee_per_s": 600e3,
            "steps": [
                step(100e3, 20.0, 45.0),
                step(800e3, 900.0, 40_000.0),
                step(400e3, 25.0, 80.0),
                step(600e3, 60.0, 400.0),
                {"rate_per_s": 900e3, "delivered_per_s": 0.0, "p50_us": 0.0, "p99_us": 0.0},
            ],
        });
        record
    }

    fn error_of(json: &Value) -> RecordError {
        series_of_record(json).unwrap_err()
    }

    #[test]
    fn records_of_latency_are_drawn_over_each_other() {
        let scratch = Scratch::of("overlay");
        let mut other = record();
        other["label"] = json!("the <other> one");
        let out = scratch.path("overlay.svg");
        let records = [
            scratch.file("overlay-1.json", &record()),
            scratch.file("overlay-2.json", &other),
        ];
        plot_records(Some("Two & both"), &records, &out).unwrap();
        let svg = fs::read_to_string(out).unwrap();
        assert!(svg.trim_end().ends_with("</svg>"));
        for text in [
            "Two &amp; both",
            "slim://127.0.0.1:1, ping: 1 pair(s), 1 in flight each",
            "the &lt;other&gt; one",
            "99.9 %",
            "90 %",
            "10 ms",
            "Percentile (the line ends at the maximum)",
        ] {
            assert!(svg.contains(text), "{text}");
        }
        for colour in ["#0072B2", "#D55E00"] {
            assert!(svg.contains(colour), "{colour}");
        }
    }

    #[test]
    fn a_sweep_is_drawn_by_throughput_in_the_order_of_its_rates() {
        let scratch = Scratch::of("sweep");
        let curve = series_of_record(&sweep_record()).unwrap();
        let Curve::ByThroughput([p50, p99]) = curve else {
            panic!("a sweep was taken for a run");
        };
        assert_eq!(p50.label, "p50 of swept <here> & there, knee at 600 k/s");
        let medians: Vec<_> = p50.points.iter().map(|point| point.1).collect();
        assert_eq!(medians, [20.0, 25.0, 60.0, 900.0]);
        assert_eq!(p99.points[2], (594e3, 400.0));

        let out = scratch.path("sweep.svg");
        plot_records(None, &[scratch.file("sweep.json", &sweep_record())], &out).unwrap();
        let svg = fs::read_to_string(out).unwrap();
        for text in [
            "Latency by throughput",
            "p50 of swept",
            "p99 of swept",
            "Delivered (messages/s)",
        ] {
            assert!(svg.contains(text), "{text}");
        }
    }

    #[test]
    fn a_record_without_traffic_is_drawn_by_its_replaced_connections() {
        let mut churned = record();
        churned["churn"] = json!({"latency": churned["traffic"]["latency"].take()});
        churned["traffic"] = Value::Null;
        let Ok(Curve::ByPercentile(series)) = series_of_record(&churned) else {
            panic!("no curve");
        };
        assert_eq!(series.points.len(), 6);
    }

    #[test]
    fn what_a_record_lacks_is_named() {
        let mut lacking = record();
        lacking["traffic"]["latency"]["percentiles"] = json!([]);
        let field = "traffic.latency.percentiles";
        assert_eq!(error_of(&lacking), RecordError::Empty { field });
        lacking["traffic"]["latency"]["percentiles"] = json!([[0.5]]);
        assert_eq!(error_of(&lacking), RecordError::NotNumbers { field });
        lacking["traffic"] = Value::Null;
        assert_eq!(error_of(&lacking), RecordError::Missing { field });
        lacking["target"] = Value::Null;
        assert_eq!(error_of(&lacking), RecordError::Missing { field: "target" });
        lacking["schema"] = json!(1);
        assert_eq!(
            error_of(&lacking).to_string(),
            "it is a record of schema 1, and only schema 2 has curves"
        );
        assert_eq!(
            error_of(&json!({"schema": 2, "runs": []})),
            RecordError::Comparison
        );
        assert_eq!(
            error_of(&json!([])),
            RecordError::Missing { field: "schema" }
        );

        let mut sweep = sweep_record();
        sweep["sweep"]["steps"] = json!([]);
        assert_eq!(
            error_of(&sweep),
            RecordError::Empty {
                field: "sweep.steps"
            }
        );
    }

    #[test]
    fn errors_name_the_file() {
        let scratch = Scratch::of("errors");
        let out = scratch.path("never.svg");
        let says = |records: &[PathBuf]| plot_records(None, records, &out).unwrap_err().to_string();
        assert!(says(&[scratch.path("absent.json")]).contains("absent.json cannot be read"));
        let text = scratch.path("text.json");
        fs::write(&text, "no").unwrap();
        assert!(says(&[text]).contains("text.json is not JSON"));
        let lacking = scratch.file("lacking.json", &json!({"schema": 2, "label": "x"}));
        assert!(
            says(&[lacking])
                .ends_with("lacking.json has no picture: traffic.latency.percentiles is missing")
        );
        let both = [
            scratch.file("run.json", &record()),
            scratch.file("swept.json", &sweep_record()),
        ];
        let mixed = says(&both);
        assert!(
            mixed.contains("swept.json is of a sweep and") && mixed.contains("run.json is not"),
            "{mixed}"
        );
        assert_eq!(says(&[]), "there is nothing to draw");
        assert!(!out.exists());
    }

    #[test]
    fn a_picture_that_cannot_be_written_is_an_error_with_its_path() {
        let scratch = Scratch::of("unwritable");
        let out = scratch.path("no-such-folder").join("plot.svg");
        let error = plot_records(None, &[scratch.file("run.json", &record())], &out)
            .unwrap_err()
            .to_string();
        assert!(error.contains("plot.svg cannot be written"), "{error}");
    }

    #[test]
    fn a_full_disk_is_an_error() {
        let full = Path::new("/dev/full");
        if full.exists() {
            let points = vec![(0.0, 1.0), (1.0, 2.0)];
            let label = String::new();
            let error = latency_by_percentile("", &[Series { label, points }], full).unwrap_err();
            assert!(matches!(error, PlotError::Write { .. }));
        }
    }

    #[test]
    fn more_lines_than_can_be_told_apart_are_refused() {
        let one = Series {
            label: "one".to_owned(),
            points: vec![(0.0, 1.0), (1.0, 2.0)],
        };
        assert!(percentile_svg("", &vec![one.clone(); SERIES_MAX]).is_ok());
        assert!(matches!(
            percentile_svg("", &vec![one; SERIES_MAX + 1]),
            Err(PlotError::TooMany { given }) if given == SERIES_MAX + 1
        ));
    }

    #[test]
    fn strange_numbers_are_drawn_or_left_out() {
        let svg = |points: Vec<(f64, f64)>| {
            let label = "x".repeat(500) + "\n\u{1}";
            percentile_svg("\u{0}", &[Series { label, points }])
        };
        for points in [
            vec![(1.0, 5.0)],
            vec![(0.0, 0.0)],
            vec![(-3.0, -1.0), (7.0, 1e300)],
            vec![(f64::NAN, 1.0), (0.5, 3.0), (0.6, f64::INFINITY)],
        ] {
            let svg = svg(points).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains('\u{0}') && !svg.contains('\u{1}'));
        }
        assert!(matches!(
            svg(vec![(0.5, f64::NAN)]),
            Err(PlotError::Nothing)
        ));
        let nothing = Series {
            label: String::new(),
            points: vec![(0.0, 1.0)],
        };
        assert!(throughput_svg("", &[nothing]).is_ok());
    }

    #[test]
    fn the_maximum_stands_beyond_the_last_quantile() {
        let points = by_tail(&[(0.0, 1.0), (0.5, 2.0), (0.75, 3.0), (1.0, 4.0)]);
        assert_eq!(points, [(1.0, 1.0), (2.0, 2.0), (4.0, 3.0), (8.0, 4.0)]);
    }

    #[test]
    fn percentiles_are_labelled_by_their_nines() {
        let labels: Vec<_> = percentile_ticks(2e5)
            .into_iter()
            .map(percentile_text)
            .collect();
        assert_eq!(
            labels,
            [
                "0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"
            ]
        );
    }

    #[test]
    fn latencies_are_labelled_as_densely_as_can_be_read() {
        assert_eq!(
            latency_ticks((10.0, 200.0)),
            [10.0, 20.0, 50.0, 100.0, 200.0]
        );
        assert!(latency_ticks((1.0, 1e7)).len() <= LATENCY_TICKS_MAX);
    }
}
