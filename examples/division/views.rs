//! The three views as HTML fragments, for the first page and for the socket.

use serde::{Deserialize, Serialize};

use crate::{
    sample::{CATEGORIES, DIVISIONS, DivisionInfo, MONTHS, PROJECTS, Project, State},
    values::Division,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum View {
    Home,
    Projects,
    Costs,
}

impl View {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Projects => "projects",
            Self::Costs => "costs",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Home => "Home",
            Self::Projects => "Projects",
            Self::Costs => "Costs",
        }
    }
}

pub(crate) fn render(view: View, division: Division) -> String {
    let shown = Shown::of(division);
    match view {
        View::Home => home(&shown),
        View::Projects => projects(&shown),
        View::Costs => costs(&shown),
    }
}

/// The content of a division, or the sum of all divisions.
struct Shown {
    name: &'static str,
    purpose: &'static str,
    divisions: Vec<&'static DivisionInfo>,
    projects: Vec<Project>,
}

impl Shown {
    fn of(division: Division) -> Self {
        let all = division == Division::ALL;
        let divisions: Vec<_> = DIVISIONS.iter().filter(|info| all || info.id == division.0).collect();
        let projects = PROJECTS.into_iter().filter(|project| all || project.division == division.0).collect();
        let (name, purpose) = match *divisions {
            [one] => (one.name, one.purpose),
            _ => ("All divisions", "Everything that the group is building, in one place"),
        };
        Self { name, purpose, divisions, projects }
    }

    fn one(&self) -> bool {
        self.divisions.len() == 1
    }

    /// The content of each division alone.
    fn each(&self) -> impl Iterator<Item = (&DivisionInfo, Self)> {
        self.divisions.iter().map(|info| (*info, Self::of(Division(info.id))))
    }

    fn budget(&self) -> u32 {
        self.projects.iter().map(|project| project.budget).sum()
    }

    fn spent(&self) -> u32 {
        self.projects.iter().map(|project| project.spent).sum()
    }

    /// The sum spent, split by each division's own percentages, which add up to 100. The parts add up to the sum too,
    /// since each part is the difference of two rounded sums.
    fn split<const N: usize>(&self, shares: fn(&DivisionInfo) -> [u32; N]) -> [u32; N] {
        let mut sums = [0; N];
        for (info, shown) in self.each() {
            let (mut percent, mut before) = (0, 0);
            for (sum, share) in sums.iter_mut().zip(shares(info)) {
                percent += share;
                let up_to_here = shown.spent() * percent / 100;
                *sum += up_to_here - before;
                before = up_to_here;
            }
        }
        sums
    }
}

fn home(shown: &Shown) -> String {
    let mut open: Vec<_> = shown.projects.iter().filter(|project| project.state != State::Done).collect();
    open.sort_by_key(|project| project.due);
    let worrying: Vec<_> =
        open.iter().copied().filter(|project| matches!(project.state, State::AtRisk | State::Late)).collect();
    let figures = figures([
        ("Open projects", open.len().to_string(), format!("of {}", shown.projects.len())),
        ("Budget", money(shown.budget()), "approved".into()),
        ("Spent", money(shown.spent()), format!("{} % of budget", percent(shown.spent(), shown.budget()))),
        ("Need attention", worrying.len().to_string(), "at risk or late".into()),
    ]);
    let overview = match shown.one() {
        true => panel("Spent by month", &months(shown)),
        false => panel("Divisions", &divisions(shown)),
    };
    let worrying = match *worrying {
        [] => r#"<p class="none">Nothing: every project is on track.</p>"#.into(),
        _ => list(&worrying, |project| pill(project.state)),
    };
    let next = list(&open[..open.len().min(4)], |project| format!("<span>{}</span>", due(project.due)));
    format!(
        r#"{}{figures}<div class="columns"><div>{overview}{}</div>{}</div>"#,
        head("Overview", shown.name, shown.purpose),
        panel("Next deadlines", &next),
        panel("Needs attention", &worrying),
    )
}

fn projects(shown: &Shown) -> String {
    let summary = format!("{} projects, {} in all", shown.projects.len(), money(shown.budget()));
    let groups: String = shown
        .each()
        .map(|(DivisionInfo { id, name, .. }, own)| {
            let group = match shown.one() {
                true => String::new(),
                false => format!(r#"<h2 class="group" data-division="{id}">{name}</h2>"#),
            };
            let cards: String = own.projects.iter().map(card).collect();
            format!(r#"{group}<ul class="cards">{cards}</ul>"#)
        })
        .collect();
    format!("{}{groups}", head(shown.name, "Projects", &summary))
}

fn costs(shown: &Shown) -> String {
    let (budget, spent) = (shown.budget(), shown.spent());
    let figures = figures([
        ("Budget", money(budget), "approved".into()),
        ("Spent", money(spent), "to date".into()),
        ("Left", money(budget - spent), "to spend".into()),
        ("Used", format!("{} %", percent(spent, budget)), "of budget".into()),
    ]);
    let (by, rows): (_, String) = match shown.one() {
        true => ("Project", shown.projects.iter().map(|own| row(own.name, own.budget, own.spent)).collect()),
        false => ("Division", shown.each().map(|(info, own)| row(info.name, own.budget(), own.spent())).collect()),
    };
    let table = format!(
        r#"<table><thead><tr><th scope="col">{by}</th><th scope="col">Budget</th><th scope="col">Spent</th><th scope="col">Left</th></tr></thead><tbody>{rows}</tbody></table>"#
    );
    format!(
        r#"{}{figures}<div class="columns even">{}{}</div>{}"#,
        head(shown.name, "Costs", "What was spent, on what and when"),
        panel("By category", &categories(shown)),
        panel("By month", &months(shown)),
        panel(&format!("By {}", by.to_lowercase()), &table),
    )
}

fn head(eyebrow: &str, title: &str, subtitle: &str) -> String {
    format!(r#"<header><p class="eyebrow">{eyebrow}</p><h1 tabindex="-1">{title}</h1><p>{subtitle}</p></header>"#)
}

fn panel(title: &str, body: &str) -> String {
    format!(r#"<section class="card"><h2>{title}</h2>{body}</section>"#)
}

fn figures(figures: [(&str, String, String); 4]) -> String {
    let figures: String = figures
        .iter()
        .map(|(name, figure, note)| {
            format!(r#"<div class="card"><dt>{name}</dt><dd>{figure}<small>{note}</small></dd></div>"#)
        })
        .collect();
    format!(r#"<dl class="figures">{figures}</dl>"#)
}

/// One bar for each month.
fn months(shown: &Shown) -> String {
    let sums = shown.split(|info| info.months);
    let most = sums.into_iter().max().unwrap_or_default();
    let bars: String = MONTHS
        .iter()
        .zip(sums)
        .map(|(month, sum)| {
            let height = percent(sum, most);
            let bar = format!(r#"<rect y="{}%" width="100%" height="{height}%" rx="4"></rect>"#, 100 - height);
            format!(r#"<li><b>{}</b><svg aria-hidden="true">{bar}</svg><span>{month}</span></li>"#, money(sum))
        })
        .collect();
    format!(r#"<ol class="months">{bars}</ol>"#)
}

/// One bar for each category.
fn categories(shown: &Shown) -> String {
    let sums = shown.split(|info| info.shares);
    let most = sums.into_iter().max().unwrap_or_default();
    let bars: String = CATEGORIES
        .iter()
        .zip(sums)
        .map(|(name, sum)| {
            let bar = format!(r#"<rect width="{}%" height="100%" rx="4"></rect>"#, percent(sum, most));
            format!(r#"<li><span>{name}</span><b>{}</b><svg aria-hidden="true">{bar}</svg></li>"#, money(sum))
        })
        .collect();
    format!(r#"<ul class="bars">{bars}</ul>"#)
}

/// Each division, the used part of its budget, and a button that switches to the division.
fn divisions(shown: &Shown) -> String {
    let rows: String = shown
        .each()
        .map(|(DivisionInfo { id, name, .. }, own)| {
            let button = format!(r#"<button name="id" value="{id}">{name}</button>"#);
            let used = format!("<span>{} of {}</span>", money(own.spent()), money(own.budget()));
            let bar = progress(&format!("{name}: budget used"), percent(own.spent(), own.budget()));
            format!(r#"<li data-division="{id}">{button}{used}{bar}</li>"#)
        })
        .collect();
    format!(r#"<form method="post" action="/division"><ul class="divisions">{rows}</ul></form>"#)
}

fn list(projects: &[&Project], aside: fn(&Project) -> String) -> String {
    let rows: String = projects
        .iter()
        .map(|project| {
            let Project { name, place, lead, .. } = project;
            format!("<li><div><b>{name}</b><small>{place} · {lead}</small></div>{}</li>", aside(project))
        })
        .collect();
    format!(r#"<ul class="list">{rows}</ul>"#)
}

fn card(project: &Project) -> String {
    let Project { name, place, lead, progress: done, .. } = *project;
    let facts: String = [
        ("Done", format!("{done} %")),
        ("Spent", money(project.spent)),
        ("Budget", money(project.budget)),
        ("Due", due(project.due)),
    ]
    .map(|(name, fact)| format!("<div><dt>{name}</dt><dd>{fact}</dd></div>"))
    .concat();
    let title = format!(r#"<div class="title"><h3>{name}</h3>{}</div><p>{place} · {lead}</p>"#, pill(project.state));
    let bar = progress(&format!("{name}: done"), done);
    format!(r#"<li class="card">{title}{bar}<dl>{facts}</dl></li>"#)
}

fn row(name: &str, budget: u32, spent: u32) -> String {
    let [budget, spent, left] = [budget, spent, budget - spent].map(money);
    format!(r#"<tr><th scope="row">{name}</th><td>{budget}</td><td>{spent}</td><td>{left}</td></tr>"#)
}

fn progress(label: &str, percent: u32) -> String {
    format!(r#"<progress aria-label="{label}" max="100" value="{percent}">{percent} %</progress>"#)
}

fn pill(state: State) -> String {
    let (class, text) = match state {
        State::OnTrack => ("good", "On track"),
        State::AtRisk => ("warn", "At risk"),
        State::Late => ("bad", "Late"),
        State::Done => ("done", "Done"),
    };
    format!(r#"<span class="pill {class}">{text}</span>"#)
}

fn due((year, month): (u16, u8)) -> String {
    const NAMES: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    format!("{} {year}", NAMES[usize::from(month) - 1])
}

/// Thousands of euros, exact: rounded amounts would not add up on the page.
fn money(thousands: u32) -> String {
    match (thousands / 1_000, thousands % 1_000) {
        (0, rest) => format!("€{rest}k"),
        (millions, rest) => format!("€{millions},{rest:03}k"),
    }
}

fn percent(part: u32, whole: u32) -> u32 {
    (part * 100 + whole / 2).checked_div(whole).unwrap_or_default()
}
