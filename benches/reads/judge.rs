//! What must hold, and whether it does.

use std::process::ExitCode;

use crate::Plan;
use crate::measure::Row;

/// Promises with what was found.
#[derive(Default)]
pub(crate) struct Verdict {
    lines: Vec<String>,
    broken: bool,
}

impl Verdict {
    /// A promise: broken, it ends an asserting run with 1.
    pub(crate) fn must(&mut self, promise: &str, kept: bool, found: String) {
        self.broken |= !kept;
        self.lines.push(format!("| must | {promise} | {found} | {} |", if kept { "yes" } else { "**no**" }));
    }

    /// Wished for: shown only.
    pub(crate) fn goal(&mut self, wish: &str, reached: bool, found: String) {
        self.lines.push(format!("| goal | {wish} | {found} | {} |", if reached { "yes" } else { "no" }));
    }

    /// Prints all and says how the run ends.
    pub(crate) fn print(self, plan: &Plan) -> ExitCode {
        if !self.lines.is_empty() {
            println!("\n| | what | found | holds |\n|---|---|---|---|\n{}", self.lines.join("\n"));
        }
        if plan.assert && self.broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

/// Judges the table.
pub(crate) fn rows(plan: &Plan, rows: &[Row], verdict: &mut Verdict) {
    for row in rows.iter().filter(|row| row.name.starts_with("credfs")) {
        let Row { name, threads, .. } = row;
        let who = format!("{name}, {threads} thread(s)");
        if *threads == 1 {
            let trips = row.round_trips();
            // A directory's own lookup comes again once a second.
            verdict.must(&format!("{who}: 3 round trips"), trips <= 3.05, format!("{trips:.2}"));
        }
        if plan.pinned && *threads == 1 {
            let allowed = row.round_trips() + 2.5 + if name.contains("exe") { 1.0 } else { 0.0 };
            let kept = row.to_ping_pong <= allowed;
            let found = format!("{:.2} × against {allowed:.2} ×", row.to_ping_pong);
            verdict.must(&format!("{who}: p50 ≤ (round trips + 2.5) × ping-pong"), kept, found);
        }
        if plan.pinned {
            continue;
        }
        let against = |other: &str| {
            let other = rows.iter().find(|row| row.name.contains(other) && row.threads == *threads);
            other.map_or(f64::NAN, |other| row.to_tmpfs / other.to_tmpfs)
        };
        let (fresh, kept, bare) = (against("fresh"), against("keep-alive"), against("bare FUSE"));
        verdict.must(&format!("{who}: faster than fresh HTTP"), fresh < 1.0, format!("{fresh:.2} ×"));
        if *threads == 4 {
            verdict.goal(&format!("{who}: ≤ 2.0 × keep-alive HTTP"), kept <= 2.0, format!("{kept:.2} ×"));
        }
        verdict.goal(&format!("{who}: at bare FUSE's figure"), bare <= 1.15, format!("{bare:.2} ×"));
    }
}
