//! The default tier, which answers where no other tier has an answer.

use std::{any::TypeId, fmt};

use http::request::Parts;

use crate::value::{self, Json, SessionValue, ValueError};

/// Defaults: constants, and values computed from the request's head.
///
/// Without a default for `V`, the methods that require `V: Default` return `V::default()`.
///
/// ```
/// # use layered_session::{CookieTier, KeyRing, LayeredSessionLayer, MemoryTier, Session, SessionValue, Sessions, DefaultTier};
/// # use serde::{Deserialize, Serialize};
/// # use {http::{Request, Response}, tower::{Layer, ServiceExt, service_fn}};
/// # #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
/// # struct Theme(String);
/// # impl SessionValue for Theme { const NAME: &'static str = "theme"; }
/// # #[derive(Debug, PartialEq, Serialize, Deserialize)]
/// # struct Mobile(bool);
/// # impl SessionValue for Mobile { const NAME: &'static str = "mobile"; }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), layered_session::tier::BoxError> {
/// let defaults = DefaultTier::new()
///     .value(Theme("light".into()))
///     .with::<Mobile>(|head| Mobile(head.headers.contains_key("sec-ch-ua-mobile")));
/// # let chain = Sessions::builder().tier(MemoryTier::builder().build());
/// # let chain = chain.tier(CookieTier::sealed(KeyRing::generate()?)).tier(defaults);
/// # let chain = chain.value::<Theme>().value::<Mobile>();
/// # let layer = LayeredSessionLayer::new(chain.build()?);
/// # let service = layer.layer(service_fn(async |request: Request<()>| {
/// # let session = Session::load(request.extensions()).await?;
/// assert_eq!(session.get(), Some(Theme("light".into())));
/// assert_eq!(session.get(), Some(Mobile(false)));
/// assert_eq!(session.value_source::<Theme>().tier(), "default");
/// # Ok::<_, layered_session::tier::BoxError>(Response::new(())) }));
/// # service.oneshot(Request::new(())).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct DefaultTier {
    pub(crate) rules: Vec<Rule>,
}

pub(crate) struct Rule {
    pub(crate) type_id: TypeId,
    pub(crate) name: &'static str,
    pub(crate) answer: DefaultRule,
}

type Compute = dyn Fn(&Parts) -> Result<Json, ValueError> + Send + Sync;

pub(crate) enum DefaultRule {
    Constant(Result<Json, ValueError>),
    Computed(Box<Compute>),
}

impl DefaultTier {
    /// Creates a tier without defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a constant. `build()` refuses a constant that does not encode or validate.
    #[must_use]
    pub fn value<V: SessionValue>(self, value: V) -> Self {
        self.rule::<V>(DefaultRule::Constant(value::encode(&value)))
    }

    /// Adds a value computed from the request's head. The closure runs once for every request, as the request reaches
    /// the layer, so the closure should be cheap. The default does not answer in a job, which has no request, and where
    /// the computed value is not valid.
    ///
    /// A closure that depends on the host takes the host from the URI's authority (HTTP/2), else from `Host`
    /// (HTTP/1.1), and compares the host without port and case: the guide has [the
    /// function](crate::guide::tiers#a-source-of-ones-own).
    #[must_use]
    pub fn with<V: SessionValue>(self, compute: impl Fn(&Parts) -> V + Send + Sync + 'static) -> Self {
        self.rule::<V>(DefaultRule::Computed(Box::new(move |head| value::encode(&compute(head)))))
    }

    fn rule<V: SessionValue>(mut self, answer: DefaultRule) -> Self {
        self.rules.push(Rule { type_id: TypeId::of::<V>(), name: V::NAME, answer });
        self
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.answer, DefaultRule::Constant(_)) { "constant" } else { "computed" };
        write!(f, "{} ({kind})", self.name)
    }
}
