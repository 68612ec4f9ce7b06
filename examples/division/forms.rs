//! Plain HTTP: sign-in and sign-out, and the division without a socket.

use axum::{
    Form, Json,
    http::{StatusCode, header},
    response::{IntoResponse, Redirect},
};
use layered_session::{Session, WriteError};
use serde::Deserialize;
use serde_json::json;

use crate::{
    live::Status,
    values::{CurrentUser, Division},
};

#[derive(Deserialize)]
pub(crate) struct Login {
    user: String,
}

/// Signs the user in without a password: an application checks the password here.
pub(crate) async fn login(session: Session, Form(login): Form<Login>) -> Result<Redirect, WriteError> {
    // Without `adopt`, the user does not get the division that the visitor chose before the sign-in.
    session.sign_in(CurrentUser { name: login.user }).await?;
    Ok(Redirect::to("/"))
}

pub(crate) async fn logout(session: Session) -> Result<Redirect, WriteError> {
    session.sign_out().await?;
    Ok(Redirect::to("/"))
}

pub(crate) async fn show(session: Session) -> impl IntoResponse {
    let Status { division, tier, user, .. } = Status::of(&session);
    let body = json!({ "value": division, "tier": tier, "user": user });
    ([(header::CACHE_CONTROL, "no-store")], Json(body))
}

#[derive(Deserialize)]
pub(crate) struct Switch {
    id: Division,
}

pub(crate) async fn switch(session: Session, Form(switch): Form<Switch>) -> Result<Redirect, WriteError> {
    session.set(switch.id).await?;
    Ok(Redirect::to("/"))
}

/// Returns to the default.
pub(crate) async fn forget(session: Session) -> Result<(), WriteError> {
    session.remove::<Division>().await
}

/// Switches and then answers with an error: a successful write stays, although the handler fails afterwards.
pub(crate) async fn switch_then_fail(session: Session, Form(switch): Form<Switch>) -> Result<StatusCode, WriteError> {
    session.set(switch.id).await?;
    Ok(StatusCode::INTERNAL_SERVER_ERROR)
}
