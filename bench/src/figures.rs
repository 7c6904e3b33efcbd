//! What many measurements come to.

use serde_json::{Value, json};

/// Of one thing measured again and again.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Half are less.
    pub(crate) median: f64,
    /// A quarter is less.
    pub(crate) low: f64,
    /// A quarter is more.
    pub(crate) high: f64,
    /// How many.
    pub(crate) count: usize,
}

impl Figures {
    /// Of at least one sample.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = samples.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self {
            median: quantile(&sorted, 0.5),
            low: quantile(&sorted, 0.25),
            high: quantile(&sorted, 0.75),
            count: sorted.len(),
        }
    }

    /// Of the differences of samples that were taken one after the other.
    pub(crate) fn of_pairs(samples: &[f64], baseline: &[f64]) -> Self {
        Self::of(
            samples
                .iter()
                .zip(baseline)
                .map(|(sample, base)| sample - base),
        )
    }

    /// `12.3 (11.0 to 14.1)`.
    pub(crate) fn text(&self) -> String {
        format!(
            "{} ({} to {})",
            short(self.median),
            short(self.low),
            short(self.high)
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "median": rounded(self.median),
            "quarter": rounded(self.low),
            "threeQuarters": rounded(self.high),
            "samples": self.count,
        })
    }
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share * last as f64;
    let (below, above) = (at.floor() as usize, at.ceil() as usize);
    sorted[below] + (sorted[above] - sorted[below]) * at.fract()
}

/// The interval that holds the median of the whole with 95 % confidence (order statistics, normal
/// approximation).
pub(crate) fn interval(samples: &[f64]) -> (f64, f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let count = sorted.len() as f64;
    let half = 0.98 * count.sqrt();
    let low = (count / 2.0 - half).floor().max(0.0) as usize;
    let high = ((count / 2.0 + half).ceil() as usize).min(sorted.len()) - 1;
    (sorted[low.min(high)], sorted[high])
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// With as many places as say something.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// 1, 1 k, 100 k, 1 M.
pub(crate) fn count(number: u32) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{} k", number / 1_000),
        _ => format!("{} M", number / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quarters() {
        let figures = Figures::of([5.0, 1.0, 3.0, 2.0, 4.0]);
        assert_eq!((figures.low, figures.median, figures.high), (2.0, 3.0, 4.0));
        let pairs = Figures::of_pairs(&[10.0, 20.0], &[1.0, 1.0]);
        assert_eq!(pairs.median, 14.0);
        assert!(Figures::of([]).median.is_nan());
    }

    #[test]
    fn the_interval_holds_the_median_and_leaves_the_ends_out() {
        let samples: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(interval(&samples), (40.0, 59.0));
        assert_eq!(interval(&[7.0]), (7.0, 7.0));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(1234.5), short(-12.34), short(0.5)],
            ["1234", "-12.3", "0.50"]
        );
        assert_eq!(
            [count(1), count(1_000), count(1_000_000)],
            ["1", "1 k", "1 M"]
        );
    }
}
