//! The times of this process and of its wall clock, and the clock that everything here reads.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Milliseconds of node time: those since 1970 by the wall clock, but for its steps back. 48 bits reach the year 10889.
///
/// Everything that this process remembers is timed by it. [`NodeClock`](crate::node_clock::NodeClock) says how it goes.
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

    /// A span in milliseconds, in the range of times.
    pub(crate) fn of_span(span: Duration) -> Self {
        Self(whole_millis(span).min(Self::MAX.0))
    }

    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Milliseconds since 1970 by the wall clock: in tokens, in versions, for stores and for the application.
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

/// Converts in 64 bits, unlike `Duration::as_millis`: every look at a deadline comes here.
pub(crate) fn whole_millis(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(u64::from(span.subsec_millis()))
}

/// A future that ends after a span.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// The source of time: the wall clock, a monotonic clock, and sleep.
///
/// The builder takes [`TokioClock`] unless the application gives another clock. Tests give a clock that they move by hand.
///
/// # Wrong clocks
///
/// A session lives by the monotonic clock: no step back of the wall clock makes a lifetime, a
/// [`MAX_AGE`](crate::SessionValue::MAX_AGE) or the minute after an end longer. A step forward is followed at once, by
/// sleeping futures within an hour. Tokens, stores and the application are told times of the wall clock. The setting
/// [`max_skew`](crate::SessionsBuilder::max_skew) bounds the effects of a wrong clock:
///
/// - A restart forgets all steps. After a step back and a restart, cookies from before the step live longer by the step.
///   Other nodes see such cookies as a restarted node does. A cookie from further ahead than `max_skew` counts as absent.
/// - After a step back of more than `max_skew`, the same holds on the node itself for a session that memory has dropped.
/// - After a step back within `max_skew`, and for as long as the step, the node takes other nodes' cookies for older than
///   they are, by the step.
/// - Versions order writes across all steps on one node. Between nodes, a write on a node whose clock is ahead wins against
///   later writes on a node that has not seen it, for as long as the clocks differ. A version from further ahead than
///   `max_skew` counts as written when its token was sealed.
/// - [`end_all_sessions`](crate::Sessions::end_all_sessions) compares moments of different nodes too, and says what follows.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the wall clock's time. Some milliseconds late is in time: a clock that costs little serves better than an
    /// exact clock, since each read of a session takes the time twice.
    fn now(&self) -> SystemTime;

    /// Returns the span since some fixed moment, such as the start of the process. The span never goes back, and whoever
    /// sets the wall clock does not change the span. Some milliseconds late is in time.
    fn monotonic(&self) -> Duration;

    /// Returns a future that ends after a span of the monotonic clock.
    fn sleep(&self, span: Duration) -> Sleep;
}

/// The system's time, and tokio's timer.
///
/// On Linux and Android the times are those of the kernel's last tick, up to 10 ms ago. The sleeps need a tokio runtime with
/// time enabled; the times need none.
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
        // Inside, since making a timer needs the runtime that polling the timer has.
        Box::pin(async move { tokio::time::sleep(span).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "tokio")]
    #[test]
    fn system_clock_is_near_the_time() {
        let ago = SystemTime::now().duration_since(TokioClock.now()).unwrap();
        assert!(ago < Duration::from_secs(60), "not the time of the machine's start: {ago:?}");
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
