//! Random programs.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    NODES,
    faults::Fault,
    values::{Op, Slot, USERS},
    world::{Doing, JARS, SOCKETS, Step, Then, Trouble},
};

fn trouble() -> impl Strategy<Value = Option<Trouble>> {
    let fault = prop_oneof![
        1 => Just(Fault::Refuse),
        1 => Just(Fault::LoseRequest),
        2 => Just(Fault::LoseReply),
        2 => Just(Fault::HoldRequest),
        3 => Just(Fault::HoldReply),
    ];
    let calls = prop_oneof![4 => Just(0), 2 => Just(1), 2 => Just(2), 1 => Just(3), 1 => Just(4)];
    proptest::option::weighted(
        0.3,
        (calls, fault, then()).prop_map(|(calls, fault, then)| Trouble { calls, fault, then }),
    )
}

fn then() -> impl Strategy<Value = Then> {
    prop_oneof![2 => Just(Then::Drop), 1 => Just(Then::Open), 1 => Just(Then::Expire), 3 => Just(Then::Leave)]
}

fn slot() -> impl Strategy<Value = Slot> {
    proptest::sample::select(Slot::ALL.to_vec())
}

/// A write of a value.
fn write() -> impl Strategy<Value = Op> {
    let kind = prop_oneof![3 => Just(Op::Set as fn(Slot) -> Op), 3 => Just(Op::Update as fn(_) -> _), 1 => Just(Op::Remove as fn(_) -> _)];
    // Only updates change the tally, so that the updates can be counted.
    (slot(), kind).prop_map(|(slot, kind)| if slot == Slot::Tally { Op::Update(slot) } else { kind(slot) })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => write(),
        1 => Just(Op::Clear),
        1 => Just(Op::Touch),
        1 => (0..3_usize).prop_map(Op::Lifetime),
        3 => Just(Op::Renew),
        5 => (0..USERS, any::<bool>()).prop_map(|(user, adopt)| Op::SignIn { user, adopt }),
        1 => Just(Op::SignOut),
        1 => Just(Op::EndAll),
        1 => Just(Op::EndOthers),
    ]
}

fn doing() -> impl Strategy<Value = Doing> {
    (op(), trouble())
}

/// A step of a program in which such spans of time pass.
pub(crate) fn step(spans: Vec<Duration>) -> impl Strategy<Value = Step> {
    let visit = (
        0..NODES,
        0..JARS,
        prop_oneof![5 => Just(None), 1 => trouble()],
        proptest::collection::vec(doing(), 0..4),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.1),
    );
    let users_write =
        prop_oneof![Just(Op::Set(Slot::Choice)), Just(Op::Remove(Slot::Choice)), Just(Op::Update(Slot::Tally))];
    let spans = proptest::sample::select(spans);
    prop_oneof![
        30 => visit.prop_map(|(node, jar, load, ops, keep, lost)| Step::Visit { node, jar, load, ops, keep, lost }),
        8 => (0..SOCKETS, doing()).prop_map(|(which, doing)| Step::Socket { which, doing }),
        1 => (0..SOCKETS).prop_map(|which| Step::Close { which }),
        4 => (0..NODES, 0..USERS, users_write, trouble())
            .prop_map(|(node, user, op, trouble)| Step::Job { node, user, doing: (op, trouble) }),
        2 => (0..NODES, 0..USERS, trouble()).prop_map(|(node, user, trouble)| Step::EndAll { node, user, trouble }),
        5 => then().prop_map(Step::Land),
        4 => (0..JARS, 0..JARS).prop_map(|(from, to)| Step::Copy { from, to }),
        2 => (0..NODES).prop_map(|node| Step::Restart { node }),
        3 => (0..NODES, prop::bool::weighted(0.7)).prop_map(|(node, follows)| Step::Follow { node, follows }),
        2 => (0..NODES, any::<bool>()).prop_map(|(node, polls)| Step::Poll { node, polls }),
        2 => (0..NODES, any::<bool>()).prop_map(|(node, cut)| Step::Cut { node, cut }),
        2 => (0..NODES, -240..240_i64).prop_map(|(node, ahead)| Step::SetClock { node, ahead }),
        6 => spans.prop_map(Step::Pass),
        8 => (0..JARS).prop_map(|jar| Step::Look { jar }),
    ]
}
