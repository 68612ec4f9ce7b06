//! The lines that the bench prints: a figure, its baseline in the same run, the ratio, and the goal.

/// The samples of one subject.
#[derive(Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Returns the sample below which `share` of the samples lie; not a number without samples.
    pub(crate) fn quantile(&mut self, share: f64) -> f64 {
        self.0.sort_by(f64::total_cmp);
        let last = self.0.len().saturating_sub(1);
        self.0.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&mut self) -> f64 {
        self.quantile(0.5)
    }
}

pub(crate) fn title(text: &str) {
    println!("\n{text:<68} {:>9} {:>9} {:>7}  goal", "figure", "baseline", "ratio");
}

/// Prints a figure beside its baseline. `goal` is the greatest ratio that meets the goal.
pub(crate) fn compare(name: &str, figure: f64, baseline: f64, goal: Option<f64>) {
    let ratio = figure / baseline;
    let digits = if figure < 1000.0 { 1 } else { 0 };
    let goal = goal.map_or_else(String::new, |goal| format!("{goal}, {}", verdict(ratio <= goal)));
    println!("{:<68} {figure:>9.digits$} {baseline:>9.digits$} {ratio:>7.3}  {goal}", name);
}

/// Prints a figure without a baseline.
pub(crate) fn figure(name: &str, figure: f64) {
    println!("{name:<68} {figure:>9.1}");
}

/// Prints a count, which the goal names exactly, and its details.
pub(crate) fn count(name: &str, count: usize, goal: Option<usize>, details: &str) {
    let goal = goal.map_or_else(String::new, |goal| format!("goal {goal}, {}", verdict(count == goal)));
    println!("{name:<44} {count:>3}  {goal:<16} {details}");
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}
