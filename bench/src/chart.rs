//! The figures as pictures: SVG, without a script or a font of their own.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::figures::{self, short};

/// Of lines, in turn; dark enough on white, and apart also without colour by their dashes.
const COLOURS: [&str; 7] = [
    "#1f5fa8", "#1f5fa8", "#c2571a", "#c2571a", "#2b7d3c", "#5b5b5b", "#8a2f8f",
];
const DASHES: [&str; 7] = ["", "6 4", "", "6 4", "", "", "2 3"];

/// Cases by size; a bare look-up comes after what it is compared with.
const LINES: [&str; 7] = [
    "UDP to direct entries, random",
    "bare hash, random keys",
    "UDP to direct networks, random",
    "bare LPM trie, random keys",
    "UDP to a direct entry, one address",
    "TCP on a flow to the gateway",
    "UDP denied, one address",
];

/// Writes a picture for each part that was measured, and returns their names.
pub(crate) fn write(output: &Path, found: &Map<String, Value>) -> Result<Vec<String>> {
    let pictures = [
        ("runs.svg", found.get("runs").map(runs)),
        ("flood.svg", found.get("flood").map(flood)),
        ("tcp.svg", found.get("tcp").map(tcp)),
    ];
    let mut names = Vec::new();
    for (name, picture) in pictures {
        let Some(picture) = picture else {
            continue;
        };
        let path = output.join(name);
        fs::write(&path, picture).with_context(|| format!("could not write {}", path.display()))?;
        names.push(path.display().to_string());
    }
    Ok(names)
}

/// Writes pictures of what the gateway costs, and returns their names.
pub(crate) fn write_gateway(output: &Path, figures: &Value) -> Result<Vec<String>> {
    let pictures = [
        (
            "gateway-bytes.svg",
            "Bytes through the gateway and others",
            "/GB",
        ),
        (
            "gateway-connections.svg",
            "Connections through the gateway and others",
            " µs/",
        ),
        ("gateway-latency.svg", "How long they take", ", p"),
    ];
    let mut names = Vec::new();
    for (name, title, part) in pictures {
        let figures = figures.as_array().into_iter().flatten();
        let panels = figures.filter_map(|found| {
            let figure = text(&found["figure"]);
            let all = found["all"].as_array()?.iter();
            let bars = all.map(|it| Bar::new(text(&it["who"]), &it["value"]));
            figure.contains(part).then(|| (figure, bars.collect()))
        });
        let panels: Vec<_> = panels.collect();
        if panels.is_empty() {
            continue;
        }
        let path = output.join(name);
        fs::write(&path, bars(title, &panels))
            .with_context(|| format!("could not write {}", path.display()))?;
        names.push(path.display().to_string());
    }
    Ok(names)
}

fn runs(found: &Value) -> String {
    let sizes = found.as_array().into_iter().flatten();
    let sizes: Vec<&Value> = sizes.filter(|size| size["endpoints"] == 1).collect();
    let labels = sizes.iter().map(|size| count(&size["entries"]));
    let series = LINES.map(|name| {
        let values = sizes.iter().map(|size| {
            let mut cases = size["cases"].as_array().into_iter().flatten();
            let case = cases.find(|case| case["case"] == name);
            case.map_or(0.0, |case| number(&case["nanoseconds"]["median"]))
        });
        (name, values.collect())
    });
    lines(
        "A packet in the link's program, ns above an empty program",
        "direct entries",
        &labels.collect::<Vec<_>>(),
        &series,
    )
}

fn flood(found: &Value) -> String {
    let parts = found.as_array().into_iter().flatten();
    let panels = parts.map(|part| {
        let filters = part["filters"].as_array().into_iter().flatten();
        // The first is what the others are above.
        let bars = filters.skip(1).map(|filter| {
            let name = text(&filter["filter"]);
            let label = match filter["entries"].as_u64() {
                Some(0) | None => name,
                Some(_) => format!("{name}, {}", count(&filter["entries"])),
            };
            Bar::new(label, &filter["nanoseconds"])
        });
        (text(&part["to"]), bars.collect())
    });
    bars(
        "UDP flood over veth: sender's CPU a packet, ns above no filter",
        &panels.collect::<Vec<_>>(),
    )
}

fn tcp(found: &Value) -> String {
    let panels = [
        ("gigabyte", "TCP, a gigabyte"),
        ("connection", "TCP, a connection"),
        ("denied", "UDP, a denied datagram, the sender alone"),
    ];
    let panels = panels.map(|(part, title)| {
        let of = &found[part];
        let bars = vec![
            Bar::new("no filter".into(), &of["without"]),
            Bar::new("nftables set".into(), &of["nftables"]),
            Bar::new("egress-agent".into(), &of["with"]),
        ];
        (format!("{title}, {}", text(&of["unit"])), bars)
    });
    bars("The whole agent on a pod's veth: CPU of both ends", &panels)
}

struct Bar {
    label: String,
    median: f64,
    low: f64,
    high: f64,
}

impl Bar {
    fn new(label: String, figures: &Value) -> Self {
        Self {
            label,
            median: number(&figures["median"]),
            low: number(&figures["quarter"]),
            high: number(&figures["threeQuarters"]),
        }
    }

    fn colour(&self) -> &'static str {
        match self.label.starts_with("egress-agent") {
            true => "#1f5fa8",
            false => "#a9b4c0",
        }
    }
}

/// Horizontal bars, each panel on a scale of its own, with the middle half as a line.
fn bars(title: &str, panels: &[(String, Vec<Bar>)]) -> String {
    const WIDTH: f64 = 760.0;
    const LEFT: f64 = 190.0;
    const RIGHT: f64 = 90.0;
    const ROW: f64 = 22.0;
    let rows: usize = panels.iter().map(|(_, bars)| bars.len()).sum();
    let height = 50.0 + panels.len() as f64 * 44.0 + rows as f64 * ROW;
    let mut svg = begin(WIDTH, height, title);
    let mut y = 50.0;
    for (name, bars) in panels {
        y += 24.0;
        put_text(&mut svg, 16.0, y, "start", "font-weight=\"bold\"", name);
        y += 10.0;
        let least = bars.iter().map(|bar| bar.low).fold(0.0, f64::min);
        let most = bars.iter().map(|bar| bar.high).fold(0.0, f64::max);
        // Room for the figure of a bar to the left.
        let left = if least < 0.0 { LEFT + 60.0 } else { LEFT };
        let x =
            |value: f64| left + (value - least) / (most - least).max(1e-9) * (WIDTH - left - RIGHT);
        let end = y + bars.len() as f64 * ROW;
        line(&mut svg, (x(0.0), y), (x(0.0), end), "#222222", "");
        for bar in bars {
            let (from, to) = (x(bar.median.min(0.0)), x(bar.median.max(0.0)));
            let middle = y + ROW / 2.0;
            let colour = bar.colour();
            let (width, top, thick) = (to - from, y + 3.0, ROW - 6.0);
            writeln!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{thick:.1}\" fill=\"{colour}\"/>"
            )
            .expect("a String takes all");
            let spread = ((x(bar.low), middle), (x(bar.high), middle));
            line(&mut svg, spread.0, spread.1, "#222222", "");
            put_text(&mut svg, LEFT - 10.0, middle + 4.0, "end", "", &bar.label);
            let value = short(bar.median);
            match bar.median < 0.0 {
                true => put_text(&mut svg, x(bar.low) - 6.0, middle + 4.0, "end", "", &value),
                false => put_text(
                    &mut svg,
                    x(bar.high) + 6.0,
                    middle + 4.0,
                    "start",
                    "",
                    &value,
                ),
            }
            y += ROW;
        }
        y += 10.0;
    }
    svg + "</svg>\n"
}

/// Lines over sizes, on a logarithmic scale, each with its name at its end.
fn lines(title: &str, below: &str, labels: &[String], series: &[(&str, Vec<f64>)]) -> String {
    const WIDTH: f64 = 860.0;
    const HEIGHT: f64 = 470.0;
    const LEFT: f64 = 60.0;
    const RIGHT: f64 = 290.0;
    const TOP: f64 = 56.0;
    const BOTTOM: f64 = 60.0;
    let most = series.iter().flat_map(|(_, values)| values);
    let most = most.fold(100.0_f64, |a, b| a.max(*b));
    let steps = (1..=6).flat_map(|decade| [1.0, 2.0, 5.0].map(|step| step * 10_f64.powi(decade)));
    let steps: Vec<f64> = steps.collect();
    let top = steps.iter().copied().find(|step| *step >= most);
    let decades = (top.unwrap_or(most) / 10.0).log10();
    let x =
        |at: usize| LEFT + at as f64 / (labels.len().max(2) - 1) as f64 * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| {
        let share = (value.max(10.0) / 10.0).log10() / decades;
        HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = begin(WIDTH, HEIGHT, title);
    for value in steps.into_iter().filter(|step| y(*step) > TOP - 1.0) {
        line(
            &mut svg,
            (LEFT, y(value)),
            (WIDTH - RIGHT, y(value)),
            "#dddddd",
            "",
        );
        let label = format!("{value}");
        put_text(&mut svg, LEFT - 8.0, y(value) + 4.0, "end", "", &label);
    }
    for (at, label) in labels.iter().enumerate() {
        put_text(&mut svg, x(at), HEIGHT - BOTTOM + 20.0, "middle", "", label);
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    put_text(
        &mut svg,
        middle,
        HEIGHT - BOTTOM + 42.0,
        "middle",
        "",
        below,
    );
    for (number, (_, values)) in series.iter().enumerate() {
        for (at, pair) in values.windows(2).enumerate() {
            let (from, to) = ((x(at), y(pair[0])), (x(at + 1), y(pair[1])));
            line(&mut svg, from, to, COLOURS[number % 7], DASHES[number % 7]);
        }
    }
    for (number, at) in apart(series, y).into_iter().enumerate() {
        let (name, values) = &series[number];
        let last = values.last().copied().unwrap_or_default();
        let colour = format!("fill=\"{}\"", COLOURS[number % 7]);
        let label = format!("{name}: {}", short(last));
        put_text(
            &mut svg,
            WIDTH - RIGHT + 10.0,
            at + 4.0,
            "start",
            &colour,
            &label,
        );
    }
    svg + "</svg>\n"
}

/// Where the lines' names stand: at their ends, but none over another.
fn apart(series: &[(&str, Vec<f64>)], y: impl Fn(f64) -> f64) -> Vec<f64> {
    const LEAST: f64 = 17.0;
    let ends = series.iter().map(|(_, values)| values.last().copied());
    let mut places: Vec<(usize, f64)> = ends.map(|end| y(end.unwrap_or(0.0))).enumerate().collect();
    places.sort_by(|a, b| a.1.total_cmp(&b.1));
    for at in 1..places.len() {
        places[at].1 = places[at].1.max(places[at - 1].1 + LEAST);
    }
    places.sort_by_key(|(number, _)| *number);
    places.into_iter().map(|(_, place)| place).collect()
}

fn begin(width: f64, height: f64, title: &str) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#222222\">\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    );
    put_text(&mut svg, 16.0, 30.0, "start", "font-size=\"17\"", title);
    svg
}

fn put_text(svg: &mut String, x: f64, y: f64, anchor: &str, more: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {more}>{text}</text>"
    )
    .expect("a String takes all");
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str, dashes: &str) {
    let width = if colour.starts_with("#d") || colour == "#222222" {
        1.0
    } else {
        2.0
    };
    writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width}\" stroke-dasharray=\"{dashes}\"/>",
        from.0, from.1, to.0, to.1
    )
    .expect("a String takes all");
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

fn count(value: &Value) -> String {
    figures::count(value.as_u64().unwrap_or_default() as u32)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
