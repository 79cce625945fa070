//! The table.

use std::fmt::Write as _;
use std::io::{self, Write as _};

/// Rows in the order in which they were measured.
#[derive(Debug)]
pub(crate) struct Report {
    /// What moorline is compared with.
    other: &'static str,
    rows: Vec<Row>,
}

/// One measure. Several samples of it become their median.
#[derive(Debug)]
pub(crate) struct Row {
    what: String,
    unit: &'static str,
    moorline: Vec<f64>,
    other: Vec<f64>,
    /// What moorline may cost at most.
    budget: Option<f64>,
    /// What moorline may cost at most, in multiples of the other side.
    ratio: Option<f64>,
}

impl Row {
    pub(crate) fn new(what: impl Into<String>, unit: &'static str) -> Self {
        let what = what.into();
        Self { what, unit, moorline: vec![], other: vec![], budget: None, ratio: None }
    }

    pub(crate) fn moorline(self, samples: impl Into<Vec<f64>>) -> Self {
        Self { moorline: samples.into(), ..self }
    }

    pub(crate) fn other(self, samples: impl Into<Vec<f64>>) -> Self {
        Self { other: samples.into(), ..self }
    }

    pub(crate) fn budget(self, most: f64) -> Self {
        Self { budget: Some(most), ..self }
    }

    pub(crate) fn budget_ratio(self, most: f64) -> Self {
        Self { ratio: Some(most), ..self }
    }

    fn cells(&self) -> [String; 6] {
        let (moorline, other) = (median(&self.moorline), median(&self.other));
        // Round by round, for what disturbs the machine disturbs both sides of a round.
        let rounds = self.moorline.iter().zip(&self.other).filter(|(_, other)| **other > 0.0);
        let ratio = median(&rounds.map(|(moorline, other)| moorline / other).collect::<Vec<_>>());
        let mut budget = String::new();
        if let Some(most) = self.budget {
            let _ = write!(budget, "<= {}", number(most));
        }
        if let Some(most) = self.ratio {
            let comma = if budget.is_empty() { "" } else { ", " };
            let _ = write!(budget, "{comma}<= {most} x");
        }
        let is_over = |value: Option<f64>, most: Option<f64>| {
            value.zip(most).is_some_and(|(value, most)| value > most)
        };
        let verdict = match budget.is_empty() || moorline.is_none() {
            true => "",
            false if is_over(moorline, self.budget) || is_over(ratio, self.ratio) => "OVER",
            false => "ok",
        };
        [
            format!("{} [{}]", self.what, self.unit),
            moorline.map(number).unwrap_or_default(),
            other.map(number).unwrap_or_default(),
            ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            budget,
            verdict.to_owned(),
        ]
    }
}

impl Report {
    pub(crate) fn new(other: &'static str) -> Self {
        Self { other, rows: vec![] }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// Prints the table to standard output, as Markdown.
    pub(crate) fn print(&self) -> io::Result<()> {
        let head = ["measure", "moorline", self.other, "ratio", "budget", ""].map(str::to_owned);
        let table: Vec<_> = [head].into_iter().chain(self.rows.iter().map(Row::cells)).collect();
        let widths: [usize; 6] = std::array::from_fn(|column| {
            let width = |row: &[String; 6]| row.get(column).map_or(0, |cell| cell.chars().count());
            table.iter().map(width).max().unwrap_or(0)
        });
        let mut out = io::stdout().lock();
        writeln!(out)?;
        for (place, row) in table.iter().enumerate() {
            for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
                match column {
                    0 => write!(out, "| {cell:<width$} ")?,
                    _ => write!(out, "| {cell:>width$} ")?,
                }
            }
            writeln!(out, "|")?;
            if place == 0 {
                for (column, width) in widths.into_iter().enumerate() {
                    let colon = if column == 0 { "-" } else { ":" };
                    write!(out, "|{}{colon}", "-".repeat(width + 1))?;
                }
                writeln!(out, "|")?;
            }
        }
        writeln!(out)
    }
}

/// The middle of the samples; none without any.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    let has_two = sorted.len().is_multiple_of(2);
    let lower = has_two.then(|| sorted.get(middle - 1)).flatten();
    Some(lower.map_or(upper, |lower| f64::midpoint(*lower, upper)))
}

/// Says how far the run is, on standard error.
pub(crate) fn progress(line: &str) {
    eprintln!("bench: {line}");
}

/// Three digits that matter.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}
