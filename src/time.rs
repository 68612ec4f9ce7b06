//! [`Clock`], the source of time, and the two kinds of times: node time ([`Millis`]) and wall clock time ([`Wall`]).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// A time of the node clock: milliseconds since 1970 by the wall clock, without the steps back of the wall clock. 48
/// bits reach the year 10889.
///
/// All times in memory are node times. [`NodeClock`](crate::node_clock::NodeClock) describes node time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    pub(crate) const MAX: Self = Self((1 << 48) - 1);

    pub(crate) fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(span)).min(Self::MAX.0))
    }

    pub(crate) fn before(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(whole_millis(span)))
    }

    /// Converts a span to milliseconds, at most [`MAX`](Self::MAX).
    pub(crate) fn of_span(span: Duration) -> Self {
        Self(whole_millis(span).min(Self::MAX.0))
    }

    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// A time of the wall clock, in milliseconds since 1970. Tokens, versions, stores and the application have such times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wall(pub(crate) u64);

impl Wall {
    pub(crate) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(whole_millis(since).min(Millis::MAX.0))
    }

    pub(crate) fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

    pub(crate) fn after(self, span: Duration) -> Self {
        Self(Millis(self.0).after(span).0)
    }
}

/// Converts a span to milliseconds. The calculation has 64 bits, and so is cheaper than `Duration::as_millis` with 128
/// bits: every check of a deadline calls this function.
pub(crate) fn whole_millis(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(u64::from(span.subsec_millis()))
}

/// A future that ends after a span.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The source of time: the wall clock, a monotonic clock, and sleep.
///
/// The builder takes [`TokioClock`] unless the application gives another clock. Tests give a clock that they move by
/// hand.
///
/// # Wrong clocks
///
/// The monotonic clock measures a session's time: no step back of the wall clock makes a lifetime, a
/// [`MAX_AGE`](crate::SessionValue::MAX_AGE) or the fence (the minute after an end) longer. A step forward of the wall
/// clock brings all ends nearer at once; a future that sleeps until an end notices the step within an hour. Tokens,
/// stores and the application get times of the wall clock. The setting [`max_skew`](crate::SessionsBuilder::max_skew)
/// bounds the effects of a wrong clock:
///
/// - A restart forgets all steps. After a step back and a restart, cookies that the node sealed before the step live
///   longer, by the length of the step. On other nodes such cookies live longer too. A cookie that was sealed further
///   ahead than `max_skew` counts as absent.
/// - After a step back of more than `max_skew`, such cookies live longer on this node even without a restart, if memory
///   has dropped the session.
/// - After a step back within `max_skew`, the node considers other nodes' cookies older than they are, by the length of
///   the step, until the wall clock shows the time of the step again.
/// - Versions order writes across all steps on one node. Between nodes, a write on a node whose clock is ahead wins
///   against later writes on a node that has not seen the first write, for as long as the clocks differ. A version from
///   further ahead than `max_skew` counts as written when its token was sealed.
/// - [`end_all_sessions`](crate::Sessions::end_all_sessions) compares moments of different nodes too, and documents the
///   effects.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the wall clock's time. The time may be some milliseconds late. Prefer a cheap clock to an exact clock,
    /// since each read of a session reads the clock twice.
    fn now(&self) -> SystemTime;

    /// Returns the span since some fixed moment, such as the start of the process. The span never goes back, and does
    /// not change with a step of the wall clock. The span may be some milliseconds late.
    fn monotonic(&self) -> Duration;

    /// Returns a future that ends after a span of the monotonic clock.
    fn sleep(&self, span: Duration) -> Sleep;
}

/// The system's time, and tokio's timer.
///
/// On Linux and Android the times are the times of the kernel's last tick, up to 10 ms ago. The sleeps need a tokio
/// runtime with time enabled; the times need no runtime.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TokioClock;

#[cfg(all(feature = "tokio", any(target_os = "linux", target_os = "android"), not(miri)))]
mod system {
    use super::{Duration, SystemTime, UNIX_EPOCH};
    use rustix::time::{ClockId, clock_gettime};

    fn of_tick(clock: ClockId) -> Option<Duration> {
        let tick = clock_gettime(clock);
        Some(Duration::new(tick.tv_sec.try_into().ok()?, tick.tv_nsec.try_into().ok()?))
    }

    pub(super) fn wall() -> SystemTime {
        of_tick(ClockId::RealtimeCoarse).map_or_else(SystemTime::now, |since| UNIX_EPOCH + since)
    }

    pub(super) fn monotonic() -> Duration {
        of_tick(ClockId::MonotonicCoarse).unwrap_or_default()
    }
}

#[cfg(all(feature = "tokio", not(all(any(target_os = "linux", target_os = "android"), not(miri)))))]
mod system {
    use super::{Duration, SystemTime};
    use std::{sync::OnceLock, time::Instant};

    pub(super) fn wall() -> SystemTime {
        SystemTime::now()
    }

    pub(super) fn monotonic() -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
}

#[cfg(feature = "tokio")]
impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        system::wall()
    }

    fn monotonic(&self) -> Duration {
        system::monotonic()
    }

    fn sleep(&self, span: Duration) -> Sleep {
        // Made inside of the future: tokio's timer needs a runtime at its creation, which the first poll has.
        Box::pin(async move { tokio::time::sleep(span).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tokio")]
    #[test]
    fn tokio_clock_shows_the_present_time() {
        let ago = SystemTime::now().duration_since(TokioClock.now()).unwrap();
        assert!(ago < Duration::from_secs(60), "the clock is {ago:?} behind the system's clock");
        let before = TokioClock.monotonic();
        std::thread::sleep(Duration::from_millis(30));
        assert!(TokioClock.monotonic() > before);
    }

    #[test]
    fn extreme_times_stay_in_range() {
        assert_eq!(Wall::of(UNIX_EPOCH - Duration::from_secs(1)), Wall(0));
        assert_eq!(Millis(1).after(Duration::MAX), Millis::MAX);
    }
}
