//! [`Breaker`]: stops the calls of a store that does not answer, and lets one probe at a time find out whether the store
//! answers again.

use std::{sync::Arc, time::Duration};

use crate::{
    error::{StoreError, StoreErrorKind},
    sync::Mutex,
};

/// The calls in a row without an answer that open the breaker.
const FAILURES: u32 = 5;

/// The span of the first opening.
const FIRST: Duration = Duration::from_secs(1);

/// The longest span. Each failed probe doubles the span up to here.
const LONGEST: Duration = Duration::from_secs(10);

/// A circuit breaker around the calls of one store. All times are spans of the monotonic clock.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<Circuit>);

impl Breaker {
    /// Lets a call through, or refuses the call. `patience` is the longest time that the call may take.
    pub(super) fn admit(self: &Arc<Self>, now: Duration, patience: Duration) -> Result<Permit, StoreError> {
        match self.0.lock().admit(now, patience) {
            Ok(turn) => Ok(Permit { breaker: Arc::clone(self), turn, reported: false }),
            Err(span) => {
                let span = span.as_secs();
                let cause =
                    format!("the node asks no more for {span} s, after {FAILURES} calls in a row without answer");
                Err(StoreError::new(StoreErrorKind::NotAsked, cause))
            }
        }
    }

    /// Whether the breaker refuses calls, apart from a probe.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.0.lock().state, State::Closed { .. })
    }
}

/// The permission for one call. A permit that is dropped without a report says nothing about the store: a dropped probe
/// makes room for another probe.
#[must_use]
#[derive(Debug)]
pub(super) struct Permit {
    breaker: Arc<Breaker>,
    turn: u64,
    reported: bool,
}

impl Permit {
    /// Reports the outcome of the call. An error is an answer too, unless the call was late or the connection failed.
    pub(super) fn report<T>(mut self, outcome: &Result<T, StoreError>, now: Duration) -> Option<Switch> {
        self.reported = true;
        let silent = |error: &StoreError| matches!(error.kind(), StoreErrorKind::Timeout | StoreErrorKind::Link);
        let answered = !outcome.as_ref().is_err_and(silent);
        self.breaker.0.lock().report(self.turn, answered, now)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.0.lock().abandon(self.turn);
        }
    }
}

/// A change of the breaker that operators want to know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Switch {
    /// The node stops asking the store.
    Opened,
    /// The store answers again.
    Closed,
}

/// The state of a breaker. Pure: the caller brings the time.
#[derive(Debug, Default)]
struct Circuit {
    state: State,
    /// The number of changes of the state so far. A call's outcome counts only in the turn in which the call began: an
    /// outcome from before an opening says nothing about the store of now.
    turn: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Every call goes through. `failures` are the calls without an answer since the last answer.
    Closed { failures: u32 },
    /// No call goes through until `until`; the first call from then on is the probe.
    Open { until: Duration, span: Duration },
    /// A probe is under way. A probe that has not reported by `until` is never polled again, and the next call is the
    /// probe.
    Probing { until: Duration, span: Duration },
}

impl Default for State {
    fn default() -> Self {
        Self::Closed { failures: 0 }
    }
}

impl Circuit {
    /// Returns the turn of the call.
    ///
    /// # Errors
    ///
    /// The span for which the breaker is open.
    fn admit(&mut self, now: Duration, patience: Duration) -> Result<u64, Duration> {
        match self.state {
            State::Closed { .. } => {}
            State::Open { until, span } | State::Probing { until, span } if now < until => return Err(span),
            State::Open { span, .. } | State::Probing { span, .. } => {
                self.turn_to(State::Probing { until: now.saturating_add(patience.max(FIRST)), span });
            }
        }
        Ok(self.turn)
    }

    fn report(&mut self, turn: u64, answered: bool, now: Duration) -> Option<Switch> {
        if turn != self.turn {
            return None;
        }
        match (self.state, answered) {
            (State::Closed { .. }, true) => self.state = State::default(),
            (State::Closed { failures }, false) if failures + 1 < FAILURES => {
                self.state = State::Closed { failures: failures + 1 };
            }
            (State::Closed { .. }, false) => {
                self.open(FIRST, now);
                return Some(Switch::Opened);
            }
            (State::Open { .. } | State::Probing { .. }, true) => {
                self.turn_to(State::default());
                return Some(Switch::Closed);
            }
            (State::Open { span, .. } | State::Probing { span, .. }, false) => self.open((span * 2).min(LONGEST), now),
        }
        None
    }

    /// Notes that a call was dropped.
    fn abandon(&mut self, turn: u64) {
        if turn == self.turn
            && let State::Probing { span, .. } = self.state
        {
            self.turn_to(State::Open { until: Duration::ZERO, span });
        }
    }

    fn open(&mut self, span: Duration, now: Duration) {
        self.turn_to(State::Open { until: now.saturating_add(span), span });
    }

    fn turn_to(&mut self, state: State) {
        (self.state, self.turn) = (state, self.turn + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(250);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Makes a call that ends at once.
    fn call(circuit: &mut Circuit, answered: bool, now: u64) -> Result<Option<Switch>, Duration> {
        let turn = circuit.admit(ms(now), PATIENCE)?;
        Ok(circuit.report(turn, answered, ms(now)))
    }

    /// A breaker that has opened at time zero.
    fn open() -> Circuit {
        let mut circuit = Circuit::default();
        for _ in 1..FAILURES {
            assert_eq!(call(&mut circuit, false, 0), Ok(None));
        }
        assert_eq!(call(&mut circuit, false, 0), Ok(Some(Switch::Opened)));
        circuit
    }

    #[test]
    fn five_failures_in_a_row_open() {
        let mut circuit = open();
        assert_eq!(call(&mut circuit, true, 999), Err(FIRST));
        assert_eq!(call(&mut circuit, true, 1000), Ok(Some(Switch::Closed)));
        assert_eq!(circuit.state, State::default());
    }

    #[test]
    fn answer_between_failures_keeps_it_closed() {
        let mut circuit = Circuit::default();
        for answered in [false, false, false, false, true, false, false, false, false] {
            assert_eq!(call(&mut circuit, answered, 0), Ok(None));
        }
        assert_eq!(call(&mut circuit, false, 0), Ok(Some(Switch::Opened)));
    }

    #[test]
    fn one_probe_at_a_time() {
        let mut circuit = open();
        let probe = circuit.admit(ms(1000), PATIENCE).unwrap();
        assert_eq!(circuit.admit(ms(1000), PATIENCE), Err(FIRST));
        assert_eq!(circuit.report(probe, true, ms(1100)), Some(Switch::Closed));
        assert!(circuit.admit(ms(1100), PATIENCE).is_ok());
    }

    #[test]
    fn failed_probes_double_the_span() {
        let mut circuit = open();
        let mut now = 1000;
        for span in [2000, 4000, 8000, 10_000, 10_000] {
            assert_eq!(call(&mut circuit, false, now), Ok(None));
            assert_eq!(call(&mut circuit, true, now + span - 1), Err(ms(span)));
            now += span;
        }
        assert_eq!(call(&mut circuit, true, now), Ok(Some(Switch::Closed)));
        for _ in 0..FAILURES {
            call(&mut circuit, false, now).unwrap();
        }
        assert_eq!(call(&mut circuit, true, now), Err(FIRST), "a new outage begins with the first span");
    }

    #[test]
    fn dropped_probe_makes_room() {
        let breaker = Arc::new(Breaker(Mutex::default()));
        *breaker.0.lock() = open();
        drop(breaker.admit(ms(1000), PATIENCE).unwrap());
        assert!(breaker.is_open());
        let probe = breaker.admit(ms(1000), PATIENCE).unwrap();
        assert!(breaker.admit(ms(1000), PATIENCE).is_err());
        assert_eq!(probe.report(&Ok(()), ms(1000)), Some(Switch::Closed));
        assert!(!breaker.is_open());
    }

    // The task of a request may hold a future without polling the future again.
    #[test]
    fn forgotten_probe_is_replaced() {
        let mut circuit = open();
        let forgotten = circuit.admit(ms(1000), ms(3000)).unwrap();
        assert_eq!(call(&mut circuit, true, 3999), Err(FIRST));
        let probe = circuit.admit(ms(4000), PATIENCE).unwrap();
        circuit.abandon(forgotten);
        assert_eq!(circuit.report(forgotten, true, ms(4000)), None);
        assert_eq!(circuit.admit(ms(4000), PATIENCE), Err(FIRST), "the second probe is under way");
        assert_eq!(circuit.report(probe, true, ms(4000)), Some(Switch::Closed));
    }

    #[test]
    fn outcome_from_before_the_opening_is_ignored() {
        let mut circuit = Circuit::default();
        let calls = [(); 10].map(|()| circuit.admit(ms(0), PATIENCE).unwrap());
        let switches = calls.map(|turn| circuit.report(turn, false, ms(250)));
        assert_eq!(switches.iter().flatten().count(), 1);
        let early = calls[9];
        assert_eq!(call(&mut circuit, true, 1250), Ok(Some(Switch::Closed)));
        assert_eq!(circuit.report(early, false, ms(1250)), None);
        assert_eq!(circuit.state, State::default());
    }

    #[test]
    fn refusals_of_the_store_are_answers() {
        let kinds = [
            (StoreErrorKind::Full, false),
            (StoreErrorKind::ReadOnly, false),
            (StoreErrorKind::Loading, false),
            (StoreErrorKind::Other, false),
            (StoreErrorKind::NotAsked, false),
            (StoreErrorKind::Timeout, true),
            (StoreErrorKind::Link, true),
        ];
        for (kind, opens) in kinds {
            let breaker = Arc::new(Breaker::default());
            for _ in 0..FAILURES {
                let permit = breaker.admit(ms(0), PATIENCE).unwrap();
                permit.report(&Err::<(), _>(StoreError::new(kind, "")), ms(0));
            }
            assert_eq!(breaker.is_open(), opens, "{kind:?}");
        }
    }
}
