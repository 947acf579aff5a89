//! A figure beside its ceiling: the medians of interleaved rounds, and the ratio of the two.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// So many a second: more is better.
    PerSecond,
    /// Mebibytes a second: more is better.
    MegabytesPerSecond,
    /// Milliseconds: less is better.
    Milliseconds,
}

/// What was measured, and beside it in the same rounds what limits it.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Of both values.
    pub unit: Unit,
    /// The median of the rounds.
    pub value: f64,
    /// What the ceiling is.
    pub ceiling_name: String,
    /// The median of the same rounds.
    pub ceiling: f64,
    /// The value by the ceiling.
    pub ratio: f64,
    /// Every round: the value, then the ceiling.
    pub rounds: Vec<(f64, f64)>,
}

impl Figure {
    /// From the rounds, of which there is at least one.
    pub(super) fn new(
        name: impl Into<String>,
        unit: Unit,
        ceiling_name: impl Into<String>,
        rounds: Vec<(f64, f64)>,
    ) -> Self {
        let value = median(rounds.iter().map(|(value, _)| *value));
        let ceiling = median(rounds.iter().map(|(_, ceiling)| *ceiling));
        let (name, ceiling_name) = (name.into(), ceiling_name.into());
        Self { name, unit, value, ceiling_name, ceiling, ratio: value / ceiling, rounds }
    }
}

/// The figures as a table in Markdown.
#[must_use]
pub fn markdown(figures: &[Figure]) -> String {
    let mut table = "| figure | orch | ceiling | ratio | what the ceiling is |\n|---|---|---|---|---|\n".to_owned();
    for figure in figures {
        let show = |value: f64| match figure.unit {
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::MegabytesPerSecond => format!("{value:.1} MiB/s"),
            Unit::Milliseconds => format!("{value:.2} ms"),
        };
        let (value, ceiling) = (show(figure.value), show(figure.ceiling));
        writeln!(table, "| {} | {value} | {ceiling} | {:.2} | {} |", figure.name, figure.ratio, figure.ceiling_name)
            .expect("a String takes all");
    }
    table
}

pub(super) fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this part of them lies.
pub(super) fn quantile(values: impl Iterator<Item = f64>, part: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let place = (values.len() as f64 * part) as usize;
    values.get(place.min(values.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_medians_of_its_rounds_and_their_ratio() {
        let figure = Figure::new("x", Unit::PerSecond, "y", vec![(1.0, 4.0), (90.0, 100.0), (2.0, 5.0)]);
        assert!(markdown(&[figure]).ends_with("| x | 2/s | 5/s | 0.40 | y |\n"));
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let hundred = || (1..=100).map(f64::from);
        let found = [quantile(hundred(), 0.5), quantile(hundred(), 0.99), quantile([7.0].into_iter(), 0.99)];
        assert_eq!(found.map(|value| value as i64), [51, 100, 7]);
    }
}
