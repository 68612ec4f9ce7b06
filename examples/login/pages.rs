//! The pages. Each page works without a script.

use std::time::{Duration, SystemTime};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use layered_session::{Required, Session, WriteError};
use tower_http::csrf::ProtectionError;

use crate::{
    DAY, HOUR, REMEMBERED_DAYS,
    accounts::SAMPLES,
    site::html::{self, escape},
    values::{Flash, User},
};

/// The public page. The message of a sign-out shows here once.
pub(crate) async fn home(session: Session) -> Result<impl IntoResponse, WriteError> {
    let message = match session.take::<Flash>().await? {
        Some(Flash::SignedOut) => "You are signed out in this browser.",
        Some(Flash::SignedOutEverywhere) => "You are signed out in all browsers.",
        Some(Flash::Refused { .. }) | None => "",
    };
    let user = session.get::<User>();
    let who = match &user {
        Some(User { name }) => format!(include_str!("member.html"), name = escape(name)),
        None => include_str!("visitor.html").to_owned(),
    };
    Ok(page("Welcome", &corner(user.as_ref()), &format!(include_str!("home.html"), message = message, who = who)))
}

/// The form, with the message of a sign-in that failed.
pub(crate) async fn login(session: Session) -> Result<Response, WriteError> {
    if session.get::<User>().is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    let refused = match session.take::<Flash>().await? {
        Some(Flash::Refused { name }) => Some(name),
        _ => None,
    };
    Ok(form(refused.as_deref()).into_response())
}

/// The form for a visitor, or for a user whose name or password was refused.
pub(crate) fn form(refused: Option<&str>) -> impl IntoResponse + use<> {
    let if_refused = |text| if refused.is_some() { text } else { "" };
    let main = format!(
        include_str!("login.html"),
        error = if_refused("The user name or the password is wrong."),
        name = escape(refused.unwrap_or_default()),
        name_focus = if refused.is_none() { "autofocus" } else { "" },
        // A screen reader reads the message with the field.
        password_focus = if_refused(r#"autofocus aria-invalid="true" aria-describedby="error""#),
        days = REMEMBERED_DAYS,
        samples = samples(),
    );
    page("Sign in", "", &main)
}

fn samples() -> String {
    let rows = SAMPLES.iter().map(|sample| {
        format!("<tr><td><code>{}</code></td><td><code>{}</code></td></tr>", sample.name, sample.password)
    });
    rows.collect()
}

/// The page of a signed-in user, behind the guard.
pub(crate) async fn account(session: Session, Required(user): Required<User>) -> impl IntoResponse {
    let sample = SAMPLES.iter().find(|sample| sample.name == user.name);
    let loans = sample.iter().flat_map(|sample| &sample.loans);
    let now = SystemTime::now();
    let main = format!(
        include_str!("account.html"),
        name = escape(&user.name),
        loans = loans.map(|(title, due)| format!("<li><b>{title}</b> <span>{due}</span></li>")).collect::<String>(),
        since = session
            .created_at()
            .and_then(|then| now.duration_since(then).ok())
            .map_or_else(String::new, |age| { format!("{} ago", rough(age)) }),
        until = session.expires_at().and_then(|then| then.duration_since(now).ok()).map_or_else(String::new, rough),
    );
    page("Your account", &corner(Some(&user)), &main)
}

/// A span of time in words.
fn rough(span: Duration) -> String {
    let (unit, name) = match span {
        span if span >= 2 * DAY => (DAY, "days"),
        span if span >= 2 * HOUR => (HOUR, "hours"),
        span if span >= Duration::from_secs(90) => (Duration::from_secs(60), "minutes"),
        _ => return "a moment".to_owned(),
    };
    format!("{} {name}", (span.as_secs() + unit.as_secs() / 2) / unit.as_secs())
}

/// The answer to a form of another site.
pub(crate) fn refused(_: ProtectionError) -> Response {
    (StatusCode::FORBIDDEN, page("Refused", "", include_str!("refused.html"))).into_response()
}

/// The corner of the bar: the signed-in user, or a link to the form.
fn corner(user: Option<&User>) -> String {
    let Some(User { name }) = user else { return include_str!("signed_out.html").to_owned() };
    let initial = name.chars().take(1).collect::<String>();
    format!(include_str!("signed_in.html"), name = escape(name), initial = escape(&initial))
}

/// A page in its frame. `no-store` keeps the page out of caches: after a sign-out, not even the back button shows an
/// account again.
fn page(title: &str, corner: &str, main: &str) -> impl IntoResponse + use<> {
    let html = format!(include_str!("page.html"), title = title, corner = corner, main = main);
    ([(header::CACHE_CONTROL, "no-store")], html::page(html, "script-src 'none'"))
}

pub(crate) fn assets() -> Router {
    html::styles(include_str!("page.css")).route("/icon.svg", html::asset("image/svg+xml", include_str!("icon.svg")))
}
