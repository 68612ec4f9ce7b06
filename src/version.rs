//! When a write happened: hybrid logical versions, and the clock that everything here reads.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The order of writes: 48 bits of milliseconds since 1970, 16 bits of counter.
///
/// A hybrid logical clock reading (Kulkarni et al., 2014): close to the wall clock, and above every version that its
/// writer had seen, so that a write made in knowledge of another always orders after it, whatever the clocks say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Below every write.
    pub const ZERO: Self = Self(0);

    /// A version as a store keeps it.
    pub const fn from_u64(bits: u64) -> Self {
        Self(bits)
    }

    /// All 64 bits, in their order.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The first version of a millisecond.
    pub(crate) const fn at(now: Millis) -> Self {
        Self(now.0 << 16)
    }

    /// The last version of a millisecond.
    pub(crate) const fn last_at(now: Millis) -> Self {
        Self(now.0 << 16 | 0xffff)
    }

    /// The version of a fresh write: of `now`, unless something newer is known of its owner.
    pub(crate) fn fresh(now: Millis, newest_known: Self) -> Self {
        Self::at(now).max(newest_known.next())
    }

    /// The next version. The counter carries into the milliseconds, which the order survives.
    pub(crate) const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    pub(crate) const fn millis(self) -> Millis {
        Millis(self.0 >> 16)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 16, self.0 & 0xffff)
    }
}

/// Milliseconds since 1970, as the clock tells them. 48 bits reach the year 10889.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(pub(crate) u64);

impl Millis {
    pub(crate) const MAX: Self = Self((1 << 48) - 1);

    pub(crate) fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(whole_millis(since).min(Self::MAX.0))
    }

    pub(crate) fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.0)
    }

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

/// In 64 bits, unlike `Duration::as_millis`: every look at a deadline comes here.
fn whole_millis(span: Duration) -> u64 {
    span.as_secs().saturating_mul(1000).saturating_add(u64::from(span.subsec_millis()))
}

/// A future that ends at a time.
pub type Sleep = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// Where the time comes from: what is expired, what a version says, when a waiting future wakes.
///
/// [`TokioClock`] unless another is given to the builder. Tests give one that they move by hand.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now. It may jump, backwards too: versions still order, and no lifetime grows by it.
    fn now(&self) -> SystemTime;

    /// The time now, or up to a second ago, where that is cheaper to know: loads and reads go by it that see nothing which
    /// ends within two seconds of it, and count as uses of that time. [`now`](Self::now) unless it is implemented.
    fn recent(&self) -> SystemTime {
        self.now()
    }

    /// Ends once [`now`](Self::now) has reached `deadline`, at once if it has already.
    fn sleep_until(&self, deadline: SystemTime) -> Sleep;

    /// Ends after so long, whatever becomes of the time of day: a heartbeat, a patience with a slow peer. Unless it is
    /// implemented, setting the clock back makes it longer by as much.
    fn sleep(&self, span: Duration) -> Sleep {
        self.sleep_until(self.now() + span)
    }
}

/// The system's time, and tokio's timer.
///
/// Its sleeps need a tokio runtime with time enabled; `now` needs none.
#[cfg(feature = "tokio")]
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TokioClock;

#[cfg(feature = "tokio")]
impl Clock for TokioClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    /// That of the kernel's last tick, which is up to 10 ms ago, for a quarter of the price. (A machine that stands still
    /// for a moment ticks later.)
    #[cfg(all(any(target_os = "linux", target_os = "android"), not(miri)))]
    fn recent(&self) -> SystemTime {
        let tick = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        match (tick.tv_sec.try_into(), tick.tv_nsec.try_into()) {
            (Ok(seconds), Ok(nanos)) => UNIX_EPOCH + Duration::new(seconds, nanos),
            _ => self.now(),
        }
    }

    fn sleep_until(&self, deadline: SystemTime) -> Sleep {
        Box::pin(async move {
            // The wall clock may be set while we sleep, and tokio's timer doesn't follow it: look again on waking, and once
            // an hour, so that one that was set forward is noticed.
            while let Ok(left) = deadline.duration_since(SystemTime::now()) {
                if left.is_zero() {
                    break;
                }
                tokio::time::sleep(left.min(Duration::from_secs(3600))).await;
            }
        })
    }

    fn sleep(&self, span: Duration) -> Sleep {
        // Inside, since making one needs the runtime that polling it has.
        Box::pin(async move { tokio::time::sleep(span).await })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_write_is_above_all_that_is_known_even_when_the_clock_is_behind() {
        let known = Version::at(Millis(5_000));
        assert_eq!(Version::fresh(Millis(9_000), known), Version::at(Millis(9_000)));
        assert_eq!(Version::fresh(Millis(1_000), known), known.next());
        assert_eq!(Version::fresh(Millis(5_000), known), known.next());
        let full = Version::from_u64((5_000 << 16) | 0xffff);
        assert!(Version::fresh(Millis(5_000), full) > full);
    }

    #[cfg(feature = "tokio")]
    #[test]
    fn what_is_recent_has_been() {
        let recent = TokioClock.recent();
        let ago = SystemTime::now().duration_since(recent).unwrap();
        assert!(ago < Duration::from_secs(60), "not that of the machine's start: {ago:?}");
    }

    #[test]
    fn times_before_1970_and_far_ahead_are_kept_in_range() {
        assert_eq!(Millis::of(UNIX_EPOCH - Duration::from_secs(1)), Millis(0));
        assert_eq!(Millis(1).after(Duration::MAX), Millis::MAX);
    }
}
