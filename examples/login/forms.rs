//! The forms: sign-in, and the two sign-outs. Each answers with a redirect, so that a reload sends no form again.

use axum::{
    Form,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Redirect, Response, Result},
};
use layered_session::{Session, WriteError};
use serde::Deserialize;

use crate::{
    AppState, pages,
    values::{Flash, NAME_CHARS},
};

#[derive(Deserialize)]
pub(crate) struct Login {
    name: String,
    password: String,
    /// The checkbox: browsers send the field only if the box is checked.
    remember: Option<String>,
}

/// Signs the user in. The redirects lead only to fixed addresses: a `next` parameter, which any link may fill, would
/// lead users to another site.
pub(crate) async fn login(
    State(AppState { accounts, remembered }): State<AppState>,
    session: Session,
    Form(login): Form<Login>,
) -> Result<Response> {
    let name = login.name.trim().chars().take(NAME_CHARS).collect::<String>();
    let checked = accounts.check(name.clone(), login.password).await.map_err(|error| {
        tracing::error!(error, "a password could not be checked");
        StatusCode::INTERNAL_SERVER_ERROR
    });
    let Some(user) = checked? else {
        let refused = Flash::Refused { name: name.clone() };
        return Ok(match refused.leave(&session).await? {
            true => Redirect::to("/login").into_response(),
            false => pages::form(Some(&name)).into_response(),
        });
    };
    if login.remember.is_some() {
        session.set_lifetime(remembered).await?;
    }
    session.sign_in(user).await?;
    Ok(Redirect::to("/account").into_response())
}

/// Signs out in this browser.
pub(crate) async fn logout(session: Session) -> Result<Redirect, WriteError> {
    session.sign_out().await?;
    farewell(&session, Flash::SignedOut).await
}

/// Signs the user out in all browsers. `Sessions::end_all_sessions` does the same without a request of the user, as
/// after a reset of the password.
pub(crate) async fn logout_everywhere(session: Session) -> Result<Redirect, WriteError> {
    session.end_all_sessions().await?;
    farewell(&session, Flash::SignedOutEverywhere).await
}

/// Leaves the message in a new session, since the old session has ended.
async fn farewell(session: &Session, message: Flash) -> Result<Redirect, WriteError> {
    session.renew().await?;
    message.leave(session).await?;
    Ok(Redirect::to("/"))
}
