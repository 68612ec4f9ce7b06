use super::{
    apply_order,
    current_token::CurrentToken,
    relay::{self, OpenedRelay, RelayRefused},
    shared::SessionShared,
};
use crate::{
    cookie::{layout::NONCE_LEN, seal::Purpose},
    id::SessionId,
    time::Millis,
};

/// Takes in what a page brings. The caller has checked that the request is same-origin.
pub(crate) async fn apply_relay(shared: &SessionShared, relayed: OpenedRelay) -> Result<(), RelayRefused> {
    shared.flags.touched.set();
    if let Some(order) = &relayed.current.payload.order {
        return apply_order::apply_turn(shared, order, &relayed).await;
    }
    let now = shared.node.now();
    let OpenedRelay { id, purpose, current, nonce, page } = relayed;
    match shared.live(now) {
        Ok(record) if record.id() == id => relay::take_changes(shared, &record, &current, now),
        Ok(_) => Err(RelayRefused::OtherSession),
        Err(Some(reason)) => Err(RelayRefused::Closed(reason)),
        Err(None) if purpose == Purpose::Birth => {
            relay::check_minting(shared, page)?;
            bring_birth(shared, id, &current, nonce, now).await
        }
        // The cookie has idled out and proves its id alone: the token tells of a later use.
        Err(None) if shared.request_token.cookie_tokens().ids == [id] && shared.node.end_reason(&id).is_none() => {
            let record = relay::find_token_record(shared, id, &current, now).await?;
            relay::take_changes(shared, &record, &current, now)?;
            shared.rebind(record);
            Ok(())
        }
        Err(None) => Err(RelayRefused::OtherSession),
    }
}

/// Gives the browser the session that was made on its page's socket: once, whoever brings the token.
async fn bring_birth(
    shared: &SessionShared,
    id: SessionId,
    current: &CurrentToken,
    nonce: [u8; NONCE_LEN],
    now: Millis,
) -> Result<(), RelayRefused> {
    if !current.is_brief(now) {
        return Err(RelayRefused::Expired);
    }
    let record = relay::find_token_record(shared, id, current, now).await?;
    shared.node.accepted_nonces.accept(nonce, now)?;
    relay::take_changes(shared, &record, current, now)?;
    shared.rebind(record);
    Ok(())
}
