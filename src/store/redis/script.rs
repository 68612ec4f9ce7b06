//! The scripts that the server runs: a commit, and a touch.

use redis::{Cmd, Pipeline, Value, cmd};

use super::layout::{self, Found, HEADER, bytes, malformed};
use crate::{
    error::StoreError,
    tier::{Change, Commit, CommitKind, Committed, NodeId, OwnerId, StoredRecord, Touch, Version},
};

/// The first byte of a notice: the format.
pub(super) const NOTICE_FORMAT: u8 = 1;

/// A script, with the hash by which a call names the script.
pub(super) struct Script {
    text: String,
    hash: String,
}

impl Script {
    fn new(flags: &str, text: &str) -> Self {
        let text = format!("#!lua{flags}\n{text}");
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    /// Returns the call that loads the script into the server.
    pub(super) fn load(&self) -> Pipeline {
        let mut load = redis::pipe();
        load.cmd("SCRIPT").arg("LOAD").arg(&self.text);
        load
    }
}

/// The scripts of a store.
pub(super) struct Scripts {
    commit: Script,
    /// The commit for a full server. A script without the flag is refused whole there, before its first command.
    pub(super) freeing_commit: Script,
    pub(super) touch: Script,
}

/// The answer of a commit.
pub(super) struct Reply {
    pub(super) committed: Committed,
    /// The server's reason for refusing the notice; empty if the server has sent the notice.
    pub(super) silent: Vec<u8>,
}

impl Scripts {
    pub(super) fn new() -> Self {
        const COMMIT: &str = concat!(include_str!("record.lua"), include_str!("commit.lua"));
        const TOUCH: &str = concat!(include_str!("record.lua"), include_str!("touch.lua"));
        const ALLOW_OOM: &str = " flags=allow-oom";
        Self {
            commit: Script::new("", COMMIT),
            freeing_commit: Script::new(ALLOW_OOM, COMMIT),
            touch: Script::new(ALLOW_OOM, TOUCH),
        }
    }

    /// Returns the script for a commit. A full server takes ends and removals: a user can sign out, and the server gets
    /// room again.
    pub(super) fn of(&self, commit: &Commit<'_>) -> &Script {
        let frees = match commit.kind() {
            CommitKind::Create => false,
            CommitKind::Update | CommitKind::Upsert => commit.changes().iter().all(|change| change.json().is_none()),
            CommitKind::Clear { .. } | CommitKind::Revoke { .. } | CommitKind::End { .. } => true,
        };
        if frees { &self.freeing_commit } else { &self.commit }
    }
}

/// Returns the call of a commit: the key; the kind, `above`, the span in milliseconds, the lifetime, the value that
/// stays or the end or the carried `not_before`, the channel, the notice without its versions; and of each change the field, the version to
/// replace, the carried version, and the entry without its version. An absent argument is empty.
pub(super) fn commit_call(script: &Script, prefix: &str, commit: &Commit<'_>) -> Cmd {
    let (kind, detail) = match commit.kind() {
        CommitKind::Create => ("create", Vec::new()),
        CommitKind::Update => ("update", Vec::new()),
        CommitKind::Upsert => ("upsert", Vec::new()),
        // The header is no value, so the header's field names no value that stays.
        CommitKind::Clear { except } => {
            ("clear", except.map_or_else(|| HEADER.into(), layout::field).into_owned().into_bytes())
        }
        CommitKind::Revoke { up_to } => {
            ("revoke", up_to.map(|up_to| layout::version(up_to).to_vec()).unwrap_or_default())
        }
        CommitKind::End { reason, successor } => ("end", layout::end(reason, successor)),
    };
    let mut call = evalsha(script, prefix, &commit.owner());
    call.arg(kind).arg(&layout::version(commit.above())).arg(layout::span_millis(commit.keep()));
    call.arg(commit.life().as_ref().map(layout::life).unwrap_or_default());
    call.arg(detail).arg(channel(prefix)).arg(notice_head(commit.node(), &commit.owner()));
    for change in commit.changes() {
        add_change(&mut call, change);
    }
    call
}

fn add_change(call: &mut Cmd, change: &Change<'_>) {
    let version = |version: Option<Version>| version.map(layout::version);
    call.arg(&*layout::field(change.name()));
    call.arg(version(change.replaces()).as_ref().map_or(&[][..], |bytes| bytes));
    call.arg(version(change.version()).as_ref().map_or(&[][..], |bytes| bytes));
    call.arg(layout::entry_tail(change.json()));
}

pub(super) fn touch_call(script: &Script, prefix: &str, touch: &Touch) -> Cmd {
    let mut call = evalsha(script, prefix, &touch.owner());
    call.arg(layout::span_millis(touch.keep()));
    call.arg(touch.lifetime_version().map(layout::version).as_ref().map_or(&[][..], |bytes| bytes));
    call
}

fn evalsha(script: &Script, prefix: &str, owner: &OwnerId) -> Cmd {
    let mut call = cmd("EVALSHA");
    call.arg(&script.hash).arg(1).arg(layout::key(prefix, owner));
    call
}

/// Returns the channel of the notices. The number is the version of the message's format.
pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}:n1")
}

/// Returns a notice without its versions, which the script adds.
fn notice_head(node: NodeId, owner: &OwnerId) -> Vec<u8> {
    [&[NOTICE_FORMAT][..], &node.as_u64().to_be_bytes(), owner.as_bytes()].concat()
}

/// Decodes the reply of a commit: the outcome's name, the reason for which no notice was sent, and the content of the
/// outcome.
pub(super) fn reply(reply: Value) -> Result<Reply, StoreError> {
    let Value::Array(parts) = reply else { return Err(malformed("the reply of a commit is no list")) };
    let mut parts = parts.into_iter();
    let mut part = || parts.next().ok_or_else(|| malformed("the reply of a commit is too short"));
    let (outcome, silent) = (bytes(part()?)?, bytes(part()?)?);
    let committed = match outcome.as_slice() {
        b"applied" => {
            let versions = bytes(part()?)?;
            let [stamp, newest, generation] =
                layout::versions(&versions).ok_or_else(|| malformed("an applied commit has three versions"))?;
            Committed::Applied { stamp, newest, generation }
        }
        b"retired" => Committed::Retired(live(part()?)?),
        b"outdated" => Committed::Outdated(live(part()?)?),
        b"absent" => Committed::Absent,
        b"ended" => match layout::header(&bytes(part()?)?)? {
            Found::Ended(end) => Committed::Ended(end),
            _ => return Err(malformed("the header of an ended record has no end")),
        },
        _ => return Err(malformed("the reply of a commit has an unknown outcome")),
    };
    Ok(Reply { committed, silent })
}

/// Decodes a live record. An absent record becomes a record without values, as `Commit::apply` returns it.
fn live(fields: Value) -> Result<StoredRecord, StoreError> {
    match layout::record(fields)? {
        Found::Live(record) => Ok(record),
        Found::Absent => Ok(StoredRecord::new(Version::ZERO)),
        Found::Ended(_) => Err(malformed("the record of a live owner has ended")),
    }
}

#[cfg(test)]
mod tests;
