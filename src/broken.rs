//! Engines that are broken on purpose, so that the tests can prove that they would notice.
//!
//! A switch is a defect that such systems ship with. It is off unless this crate is built with the feature `broken`, which
//! only its own tests do, and the environment variable `QUEUE_BROKEN` names it.

/// Declares the switches: each with the rule that it breaks, the test that must fail then, and what it does.
macro_rules! switches {
    ($($name:ident: $rule:literal, $killer:literal, $sentence:literal;)*) => {
        /// A defect.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Broken {
            $(#[doc = $sentence] $name,)*
        }

        #[cfg(feature = "broken")]
        impl Broken {
            /// All of them.
            pub const ALL: &[Switch] = &[$(Switch {
                broken: Broken::$name,
                name: stringify!($name),
                rule: $rule,
                killer: $killer,
                sentence: $sentence,
            },)*];
        }
    };
}

switches! {
    RetriesForEver: "22", "retries::memory::e2_only_the_failing_step_is_repeated_as_often_as_its_task_says",
        "A step whose retries are used up is tried again.";
}

/// What is known of a switch.
#[cfg(feature = "broken")]
#[derive(Clone, Copy, Debug)]
pub struct Switch {
    /// The switch.
    pub broken: Broken,
    /// How `QUEUE_BROKEN` names it.
    pub name: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
    /// The test that must fail.
    pub killer: &'static str,
    /// What it does.
    pub sentence: &'static str,
}

/// Whether this defect is switched on.
#[cfg(not(feature = "broken"))]
pub(crate) const fn is(_: Broken) -> bool {
    false
}

/// Whether this defect is switched on.
#[cfg(feature = "broken")]
pub(crate) fn is(broken: Broken) -> bool {
    static ON: std::sync::LazyLock<Option<Broken>> = std::sync::LazyLock::new(|| {
        let asked = std::env::var("QUEUE_BROKEN").ok()?;
        let known = Broken::ALL.iter().find(|switch| switch.name == asked);
        assert!(known.is_some(), "QUEUE_BROKEN names {asked:?}, which is no switch");
        known.map(|switch| switch.broken)
    });
    *ON == Some(broken)
}

/// `broken!(Name)`: whether the engine is to be broken so.
macro_rules! broken {
    ($name:ident) => {
        $crate::broken::is($crate::broken::Broken::$name)
    };
}
