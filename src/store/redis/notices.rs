//! The stream of the commits that other nodes make, over a connection of its own.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use redis::{
    Client, RedisError, Value,
    aio::{PubSubSink, PubSubStream},
};
use tokio::time::{sleep, timeout};

use super::{
    failure::Failure,
    link::{CONNECT, delay},
    script::NOTICE_FORMAT,
};
use crate::{
    error::StoreError,
    throttle::{MINUTE, Throttle},
    tier::{Known, NodeId, Notice, NoticeStream, OwnerId, Version},
    time::Millis,
};

/// The time without a notice after which a PING checks the connection: a peer that has vanished closes nothing.
const QUIET: Duration = Duration::from_secs(10);

/// The bytes of a notice: the format, the node, the owner, the newest version and the generation.
const LEN: usize = 1 + 8 + 32 + 8 + 8;

/// Returns a stream that connects at its first poll.
pub(super) fn notices(client: Client, channel: String) -> NoticeStream {
    let subscriber = Subscriber {
        client,
        channel,
        subscription: None,
        failures: 0,
        malformed: 0,
        failed: Throttle::default(),
        start: std::time::Instant::now(),
    };
    // The stream keeps the future of `next`, so a dropped `StreamExt::next` loses no notice.
    Box::pin(stream::unfold(subscriber, |mut subscriber| async {
        let notice = subscriber.next().await;
        Some((notice, subscriber))
    }))
}

struct Subscriber {
    client: Client,
    channel: String,
    subscription: Option<Subscription>,
    /// The failed attempts since the last notice.
    failures: u32,
    malformed: u64,
    failed: Throttle,
    start: std::time::Instant,
}

struct Subscription {
    sink: PubSubSink,
    messages: PubSubStream,
}

impl Subscriber {
    async fn next(&mut self) -> Notice {
        loop {
            let Some(subscription) = &mut self.subscription else {
                if self.connect().await {
                    return Notice::Up;
                }
                continue;
            };
            match subscription.next().await {
                Some(message) => match decode(&message) {
                    Some(notice) => {
                        self.failures = 0;
                        return notice;
                    }
                    None => {
                        self.malformed += 1;
                        tracing::debug!(malformed = self.malformed, "a message in the channel of notices is no notice");
                    }
                },
                None => {
                    self.subscription = None;
                    return Notice::Down;
                }
            }
        }
    }

    /// Makes one attempt, after the delay of the failures before. Returns whether notices arrive.
    async fn connect(&mut self) -> bool {
        if self.failures > 0 {
            // At random, so that the nodes do not return all at once.
            sleep(delay(self.failures).mul_f64(rand::random_range(0.5..1.0))).await;
        }
        self.failures = self.failures.saturating_add(1);
        let subscribed = timeout(CONNECT, Subscription::new(&self.client, &self.channel)).await;
        let failure = match subscribed {
            Ok(Ok(subscription)) => {
                self.subscription = Some(subscription);
                return true;
            }
            Ok(Err(error)) => {
                let password = self.client.get_connection_info().redis_settings().password();
                Failure::of_attempt(&error, password).error()
            }
            Err(_) => StoreError::other("no connection: no answer in time"),
        };
        if let Some(left_out) = self.failed.due(1, Millis::of_span(self.start.elapsed()), MINUTE) {
            let error = std::error::Error::source(&failure);
            tracing::warn!(error, left_out, "no notices of other nodes' writes: the subscription failed");
        }
        false
    }
}

impl Subscription {
    async fn new(client: &Client, channel: &str) -> Result<Self, RedisError> {
        let (mut sink, messages) = client.get_async_pubsub().await?.split();
        sink.subscribe(channel).await?;
        Ok(Self { sink, messages })
    }

    /// Returns the next message; `None` if the connection is lost.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(message) = timeout(QUIET, self.messages.next()).await {
                return message.map(|message| message.get_payload_bytes().to_vec());
            }
            let answered = timeout(CONNECT, self.sink.ping::<Value>()).await;
            answered.ok()?.ok()?;
        }
    }
}

fn decode(message: &[u8]) -> Option<Notice> {
    let message: &[u8; LEN] = message.try_into().ok()?;
    let ([NOTICE_FORMAT], rest) = message.split_first_chunk()? else { return None };
    let (node, rest) = rest.split_first_chunk()?;
    let (owner, rest) = rest.split_first_chunk()?;
    let (newest, rest) = rest.split_first_chunk()?;
    let (generation, _) = rest.split_first_chunk()?;
    let version = |bytes: &[u8; 8]| Version::from_u64(u64::from_be_bytes(*bytes));
    Some(Notice::Changed {
        owner: OwnerId::from_hash(*owner),
        known: Known::new(version(generation), version(newest)),
        node: NodeId::from_u64(u64::from_be_bytes(*node)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_messages_are_no_notices() {
        let mut message = [7; LEN];
        message[0] = NOTICE_FORMAT;
        assert!(decode(&message).is_some());
        assert!(decode(&message[1..]).is_none() && decode(&[&message[..], &[0]].concat()).is_none());
        message[0] = 2;
        assert!(decode(&message).is_none() && decode(b"").is_none());
    }
}
