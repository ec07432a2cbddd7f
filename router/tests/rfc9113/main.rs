//! RFC 9113 section by section, RFC 7541 and gRPC over HTTP/2 where they bind a server: what each asks of us, and what a
//! peer that does it, or does not, gets from a running router.
//!
//! | module | owns |
//! |---|---|
//! | `table` | the rows: section, requirement, verdict |
//! | `wire` | frames and header blocks as a peer may write them |
//! | `talk` | one connection to a router; what came back, as text |
//! | `proofs` | what takes more than bytes in and an answer out |
//!
//! A verdict is *kept* (with the bytes or the proof that show it), *not applicable* (with the reason) or *differs* (with
//! the reason, and what happens instead). Nothing else is known about conformance than this table; every section of
//! RFC 9113 from 3 to 10 must occur in it. The state machine alone, without sockets, has its own table in
//! `proto/src/http2/tests/conformance.rs`.

#[path = "../common/mod.rs"]
mod common;

mod proofs;
// One line a case, as in a table.
#[rustfmt::skip]
mod table;
mod talk;
mod wire;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::TestRouter;
use table::{Row, Shown, Verdict, rows};
use talk::answer;

/// Sections 3 to 10 of RFC 9113, without those that only have subsections.
const SECTIONS: &[&str] = &[
    "3.1", "3.2", "3.3", "3.4", "4.1", "4.2", "4.3", "4.3.1", "5.1", "5.1.1", "5.1.2", "5.2.1",
    "5.2.2", "5.2.3", "5.3.1", "5.3.2", "5.4", "5.4.1", "5.4.2", "5.4.3", "5.5", "6.1", "6.2",
    "6.3", "6.4", "6.5", "6.5.1", "6.5.2", "6.5.3", "6.6", "6.7", "6.8", "6.9", "6.9.1", "6.9.2",
    "6.9.3", "6.10", "7", "8.1", "8.1.1", "8.2", "8.2.1", "8.2.2", "8.2.3", "8.3", "8.3.1",
    "8.3.2", "8.4", "8.4.1", "8.4.2", "8.5", "8.6", "8.7", "8.8", "9.1", "9.1.1", "9.2", "10.1",
    "10.2", "10.3", "10.4", "10.5", "10.5.1", "10.5.2", "10.6", "10.7", "10.8", "10.9",
];

#[test]
fn every_row_gets_what_the_table_says() {
    let router = TestRouter::start(1);
    let mut failures = Vec::new();
    for Row {
        section,
        requirement,
        verdict,
    } in rows()
    {
        let (Verdict::Kept(shown) | Verdict::Differs(_, shown)) = verdict else {
            continue;
        };
        for failure in failures_of(&router, shown) {
            failures.push(format!("{section}: {requirement}: {failure}"));
        }
    }
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What does not hold of a row. A panic in one must not hide the others.
fn failures_of(router: &TestRouter, shown: Shown) -> Vec<String> {
    match shown {
        Shown::Cases(cases) => cases
            .into_iter()
            .filter_map(|case| {
                let got =
                    catch_unwind(AssertUnwindSafe(|| answer(router, case.start, &case.sends)));
                let got = got.unwrap_or_else(|_| "panicked".to_owned());
                (got != case.gets)
                    .then(|| format!("{} gets `{got}`, not `{}`", case.what, case.gets))
            })
            .collect(),
        Shown::Proof(proof) => match catch_unwind(AssertUnwindSafe(|| proof(router))) {
            Ok(()) => Vec::new(),
            Err(_) => vec!["the proof fails, see above".to_owned()],
        },
    }
}

#[test]
fn every_section_has_a_row_and_every_row_says_something() {
    let rows = rows();
    let covered: BTreeSet<&str> = rows.iter().map(|row| row.section).collect();
    let missing: Vec<_> = SECTIONS
        .iter()
        .filter(|section| !covered.contains(*section))
        .collect();
    assert!(missing.is_empty(), "sections without a row: {missing:?}");
    for row in &rows {
        assert!(
            SECTIONS.contains(&row.section)
                || row.section.starts_with("RFC 7541 ")
                || row.section.starts_with("gRPC "),
            "there is no section {}",
            row.section
        );
        let says = match &row.verdict {
            Verdict::Kept(Shown::Cases(cases)) => !cases.is_empty(),
            Verdict::Kept(Shown::Proof(_)) => true,
            Verdict::Differs(reason, _) | Verdict::NotApplicable(reason) => !reason.is_empty(),
        };
        assert!(
            says && !row.requirement.is_empty(),
            "{}: a row without evidence",
            row.section
        );
    }
}
