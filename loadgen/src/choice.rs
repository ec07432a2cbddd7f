//! What is drawn for each message: its size, its name.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::message::STAMP_BYTES;

/// Largest payload in bytes: with names and token it stays below the largest message (dataplane 1.5).
pub const PAYLOAD_BYTES_MAX: usize = 4_000_000;
/// Sizes that one list may have.
const SIZES_MAX: usize = 64;
/// Draws that are made ahead of an uneven distribution, and then gone round.
const DRAWS: usize = 65_536;

/// A small generator (xorshift64*): the same draws on every machine, no system call, no lock.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Any number but 0, and seeds that are near give draws that are not.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `end`, which is not 0.
    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }
}

/// Indices below a count, in the order in which they were drawn.
#[derive(Clone, Debug)]
pub enum Choice {
    One,
    Uniform {
        count: u64,
        random: Random,
    },
    /// Gone round from `at`.
    Drawn {
        draws: Arc<[u32]>,
        at: usize,
    },
}

impl Choice {
    pub fn uniform(count: usize, seed: u64) -> Self {
        match count {
            0 | 1 => Self::One,
            _ => Self::Uniform {
                count: count as u64,
                random: Random::new(seed),
            },
        }
    }

    /// Index `i` as often as `weight(i)` says, relative to the others.
    pub fn weighted(count: usize, weight: impl Fn(usize) -> f64, seed: u64) -> Self {
        if count <= 1 {
            return Self::One;
        }
        let mut total = 0.0;
        let sums: Vec<f64> = (0..count)
            .map(|index| {
                total += weight(index);
                total
            })
            .collect();
        let mut random = Random::new(seed);
        let draws = (0..DRAWS)
            .map(|_| {
                let at = random.draw() as f64 / u64::MAX as f64 * total;
                sums.partition_point(|sum| *sum < at).min(count - 1) as u32
            })
            .collect();
        Self::Drawn { draws, at: 0 }
    }

    /// The same distribution from another place on.
    pub fn reseeded(&self, seed: u64) -> Self {
        match self {
            Self::One => Self::One,
            Self::Uniform { count, .. } => Self::Uniform {
                count: *count,
                random: Random::new(seed),
            },
            Self::Drawn { draws, .. } => Self::Drawn {
                draws: Arc::clone(draws),
                at: Random::new(seed).below(draws.len() as u64) as usize,
            },
        }
    }

    #[inline]
    pub fn draw(&mut self) -> usize {
        match self {
            Self::One => 0,
            Self::Uniform { count, random } => random.below(*count) as usize,
            Self::Drawn { draws, at } => {
                let drawn = draws[*at];
                *at = if *at + 1 < draws.len() { *at + 1 } else { 0 };
                drawn as usize
            }
        }
    }
}

/// How often each of several names is published to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Popularity {
    Uniform,
    /// The name of rank `r` as often as `1 / r^exponent`.
    Zipf {
        exponent: f64,
    },
}

impl Popularity {
    pub fn choice(self, count: usize, seed: u64) -> Choice {
        match self {
            Self::Uniform => Choice::uniform(count, seed),
            Self::Zipf { exponent } => {
                Choice::weighted(count, |rank| ((rank + 1) as f64).powf(-exponent), seed)
            }
        }
    }
}

impl FromStr for Popularity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Self::Uniform),
            Some(("zipf", exponent)) => match exponent.parse::<f64>() {
                Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Self::Zipf { exponent }),
                _ => Err("the exponent is a number from 0 to 10, as in zipf:1.1".to_owned()),
            },
            _ => Err("`uniform` or `zipf:EXPONENT` is expected".to_owned()),
        }
    }
}

impl fmt::Display for Popularity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipf { exponent } => write!(f, "zipf:{exponent}"),
        }
    }
}

/// Bytes of payloads: `256`, `100-2000` (all alike), or `64:70,1024:25,65536:5` (each with its weight).
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    Fixed(usize),
    Range { least: usize, most: usize },
    Weighted(Vec<(usize, f64)>),
}

impl Sizes {
    pub fn most(&self) -> usize {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Range { most, .. } => *most,
            Self::Weighted(sizes) => sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0),
        }
    }

    pub fn draws(&self, seed: u64) -> SizeDraws {
        let choice = match self {
            Self::Fixed(_) => Choice::One,
            Self::Range { least, most } => Choice::uniform(most - least + 1, seed),
            Self::Weighted(sizes) => Choice::weighted(sizes.len(), |index| sizes[index].1, seed),
        };
        SizeDraws {
            sizes: self.clone(),
            choice,
        }
    }

    /// Whether a payload of ours can have so many bytes.
    fn includes(&self, bytes: usize) -> bool {
        match self {
            Self::Fixed(fixed) => bytes == *fixed,
            Self::Range { least, most } => (*least..=*most).contains(&bytes),
            Self::Weighted(sizes) => sizes.iter().any(|(size, _)| *size == bytes),
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = |text: &str| match text.parse::<usize>() {
            Ok(bytes) if (STAMP_BYTES..=PAYLOAD_BYTES_MAX).contains(&bytes) => Ok(bytes),
            _ => Err(format!(
                "{STAMP_BYTES} to {PAYLOAD_BYTES_MAX} bytes are accepted; the last {STAMP_BYTES} carry flow, sequence and time"
            )),
        };
        if text.contains([':', ',']) {
            let sizes: Vec<(usize, f64)> = text
                .split(',')
                .map(|part| {
                    let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
                    match weight.parse::<f64>() {
                        Ok(weight) if weight > 0.0 && weight <= 1e9 => Ok((bytes(size)?, weight)),
                        _ => Err("a weight is a positive number, as in 64:70,1024:30".to_owned()),
                    }
                })
                .collect::<Result<_, String>>()?;
            if sizes.len() > SIZES_MAX {
                return Err(format!("more than {SIZES_MAX} sizes"));
            }
            return Ok(Self::Weighted(sizes));
        }
        match text.split_once('-') {
            None => bytes(text).map(Self::Fixed),
            Some((least, most)) => {
                let (least, most) = (bytes(least)?, bytes(most)?);
                if least <= most {
                    Ok(Self::Range { least, most })
                } else {
                    Err("the smaller size comes first, as in 100-2000".to_owned())
                }
            }
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "{bytes}"),
            Self::Range { least, most } => write!(f, "{least}-{most}"),
            Self::Weighted(sizes) => {
                for (index, (bytes, weight)) in sizes.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{bytes}:{weight}")?;
                }
                Ok(())
            }
        }
    }
}

/// Sizes in the order in which they were drawn.
#[derive(Clone, Debug)]
pub struct SizeDraws {
    sizes: Sizes,
    choice: Choice,
}

impl SizeDraws {
    #[inline]
    pub fn draw(&mut self) -> usize {
        match &self.sizes {
            Sizes::Fixed(bytes) => *bytes,
            Sizes::Range { least, .. } => least + self.choice.draw(),
            Sizes::Weighted(sizes) => sizes.get(self.choice.draw()).map_or(0, |(bytes, _)| *bytes),
        }
    }

    /// Whether such a size can be drawn.
    pub fn includes(&self, bytes: usize) -> bool {
        self.sizes.includes(bytes)
    }

    pub fn reseeded(&self, seed: u64) -> Self {
        Self {
            sizes: self.sizes.clone(),
            choice: self.choice.reseeded(seed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(mut choice: Choice, count: usize, draws: usize) -> Vec<usize> {
        let mut counts = vec![0; count];
        (0..draws).for_each(|_| counts[choice.draw()] += 1);
        counts
    }

    #[test]
    fn uniform_draws_are_even() {
        let counts = counts(Choice::uniform(10, 7), 10, 100_000);
        assert!(
            counts.iter().all(|count| (9_500..10_500).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn zipf_draws_fall_as_their_exponent_says() {
        let choice = Popularity::Zipf { exponent: 1.0 }.choice(1_000, 7);
        let counts = counts(choice, 1_000, DRAWS);
        // Of rank 1: 1 / H(1000) = 13.4 %.
        let share = |rank: usize| counts[rank - 1] as f64 / DRAWS as f64;
        assert!((share(1) - 0.1336).abs() < 0.005, "{}", share(1));
        assert!((share(1) / share(2) - 2.0).abs() < 0.15);
        assert!((share(1) / share(10) - 10.0).abs() < 1.5);
    }

    #[test]
    fn reseeded_draws_are_the_same_distribution_in_another_order() {
        let choice = Choice::weighted(3, |index| [7.0, 2.0, 1.0][index], 1);
        let (one, other) = (choice.reseeded(2), choice.reseeded(3));
        assert_eq!(counts(one, 3, DRAWS), counts(other, 3, DRAWS));
    }

    #[test]
    fn sizes_read_print_and_draw() {
        for text in ["256", "100-2000", "64:70,1024:25,65536:5"] {
            let sizes: Sizes = text.parse().unwrap();
            assert_eq!(sizes.to_string(), text);
            let mut draws = sizes.draws(9);
            for _ in 0..1_000 {
                let bytes = draws.draw();
                assert!(sizes.includes(bytes), "{text} {bytes}");
                assert!(bytes <= sizes.most());
            }
        }
        let weighted: Sizes = "64:9,128:1".parse().unwrap();
        let mut draws = weighted.draws(9);
        let small = (0..10_000).filter(|_| draws.draw() == 64).count();
        assert!((8_800..9_200).contains(&small), "{small}");
        assert_eq!(
            "64,128".parse(),
            Ok(Sizes::Weighted(vec![(64, 1.0), (128, 1.0)]))
        );
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for bad in [
            "", "23", "4000001", "x", "64-", "200-100", "64:0", "64:-1", "64:x", "64,,65",
        ] {
            assert!(bad.parse::<Sizes>().is_err(), "{bad}");
        }
        for bad in [
            "", "zipf", "zipf:", "zipf:-1", "zipf:11", "zipf:nan", "even",
        ] {
            assert!(bad.parse::<Popularity>().is_err(), "{bad}");
        }
    }
}
