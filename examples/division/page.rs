//! The page around the views. Each view has an address of its own, so that a reload, a bookmark and a browser without
//! scripts get the whole view.

use axum::{Router, response::IntoResponse};
use layered_session::Session;

use crate::{
    sample::DIVISIONS,
    site::html,
    values::{CurrentUser, Division},
    views::{self, View},
};

/// The page's own script, which talks to the page's own server.
const SCRIPTS: &str = "script-src 'self'; connect-src 'self'";

/// Renders the page of a view for the signed-in user or visitor. `banner` is HTML below the navigation bar.
pub(crate) fn page(session: &Session, view: View, banner: &str) -> impl IntoResponse + use<> {
    let division: Division = session.value();
    let tier = session.value_source::<Division>().tier();
    let user = session.get::<CurrentUser>().map(|user| user.name);
    render(view, division, user.as_deref(), tier, banner)
}

pub(crate) fn render(
    view: View,
    division: Division,
    user: Option<&str>,
    tier: &str,
    banner: &str,
) -> impl IntoResponse + use<> {
    let here = |link| if link == view { r#"aria-current="page""# } else { "" };
    let hidden = |hidden| if hidden { "hidden" } else { "" };
    let html = format!(
        include_str!("page.html"),
        banner = banner,
        view = view.name(),
        title = view.title(),
        division = division.0,
        here_home = here(View::Home),
        here_projects = here(View::Projects),
        here_costs = here(View::Costs),
        options = options(division),
        signed_in = hidden(user.is_none()),
        signed_out = hidden(user.is_some()),
        initial = html::escape(&user.iter().flat_map(|user| user.chars()).take(1).collect::<String>()),
        user = html::escape(user.unwrap_or_default()),
        tier = tier,
        kept = kept(tier),
        in_memory = kept("memory"),
        in_cookie = kept("cookie"),
        nowhere = kept("default"),
        main = views::render(view, division),
    );
    html::page(html, SCRIPTS)
}

/// Returns the text on the place that keeps the division.
fn kept(tier: &str) -> &'static str {
    match tier {
        "memory" => "Division kept in the server’s memory",
        "cookie" => "Division kept in this browser’s cookie",
        _ => "No division chosen",
    }
}

fn options(chosen: Division) -> String {
    let all = (Division::ALL.0, "All divisions");
    let each = DIVISIONS.iter().map(|division| (division.id, division.name));
    std::iter::once(all)
        .chain(each)
        .map(|(id, name)| {
            let selected = if id == chosen.0 { " selected" } else { "" };
            format!(r#"<option value="{id}"{selected}>{name}</option>"#)
        })
        .collect()
}

pub(crate) fn assets() -> Router {
    html::styles(include_str!("page.css"))
        .route("/page.js", html::asset("text/javascript; charset=utf-8", include_str!("page.js")))
        .route("/icon.svg", html::asset("image/svg+xml", include_str!("icon.svg")))
}
