//! Plain HTTP: sign-in and sign-out, and the division without a socket.

use axum::{
    Form, Json, Router,
    extract::DefaultBodyLimit,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
    routing::{get, post},
};
use layered_session::{Session, WriteError};
use serde::Deserialize;
use serde_json::json;

use crate::{
    live::Status,
    values::{CurrentUser, Division},
};

const FORM_BYTES: usize = 4 << 10;

pub(crate) fn routes() -> Router {
    Router::new()
        // Under `SameSite=Lax` the browser sends no cookie with another site's form, and such a form can't sign a user
        // in.
        .route("/login", post(login))
        .route("/logout", post(logout))
        .route("/division", get(show).post(switch).delete(forget))
        .route("/division-then-fail", post(switch_then_fail))
        .layer(DefaultBodyLimit::max(FORM_BYTES))
}

#[derive(Deserialize)]
struct Login {
    user: String,
}

/// Signs the user in without a password: an application checks the password here.
async fn login(session: Session, Form(login): Form<Login>) -> Result<Redirect, WriteError> {
    // Without `adopt`, the user does not get the division that the visitor chose before the sign-in.
    session.sign_in(CurrentUser { name: login.user }).await?;
    Ok(Redirect::to("/"))
}

async fn logout(session: Session) -> Result<Redirect, WriteError> {
    session.sign_out().await?;
    Ok(Redirect::to("/"))
}

async fn show(session: Session) -> impl IntoResponse {
    let Status { division, tier, user, .. } = Status::of(&session);
    let body = json!({ "value": division, "tier": tier, "user": user });
    ([(header::CACHE_CONTROL, "no-store")], Json(body))
}

#[derive(Deserialize)]
struct Switch {
    id: Division,
}

async fn switch(session: Session, Form(switch): Form<Switch>) -> Result<Redirect, WriteError> {
    session.set(switch.id).await?;
    Ok(Redirect::to("/"))
}

/// Returns to the default.
async fn forget(session: Session) -> Result<(), WriteError> {
    session.remove::<Division>().await
}

/// Switches and then answers with an error: a successful write stays, although the handler fails afterwards.
async fn switch_then_fail(session: Session, Form(switch): Form<Switch>) -> Result<StatusCode, WriteError> {
    session.set(switch.id).await?;
    Ok(StatusCode::INTERNAL_SERVER_ERROR)
}
