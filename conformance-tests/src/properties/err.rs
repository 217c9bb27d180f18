//! ERR: what goes wrong is told in time and in the right words, and nothing is left half done.

use std::{collections::BTreeMap, error::Error as _, time::Duration};

use futures::future::join_all;
use queue_core::{Effect, Error, ErrorKind, Result, spec::Answer};
use serde_json::Value;

use self::scenes::{Expected, Reference, Scene, scenes};
use super::scene::Store;
use crate::{
    Case, Checked, Fault, Property, Stop, case::Breaking, check, faults::is_write, property::group,
};

mod again;
mod contention;
mod dropped;
mod malformed;
mod scenes;

/// A driver may take half a second to find a server again, and does so in every round.
const LIMIT: Duration = Duration::from_secs(120);
/// How much longer than its patience a store may take before it counts as hanging.
const GRACE: Duration = Duration::from_secs(4);
/// How often a call may fail once the fault is over: a pool may hold several connections that ended.
const STALE: usize = 40;
/// How often a state that cannot be is looked at.
const LOOKS: usize = 20;
/// How often the answers to all operations are taken away, at most.
const ROUNDS: usize = 60;

mod listed {
    use super::*;

    group! {
        "ERR-1", "a store that is out of reach says so in time, whatever it is asked" => out_of_reach_is_told;
        "ERR-2", "a call whose answer is lost says that its effect is unknown, and may be repeated" => lost_answers;
        "ERR-3", "a call that is lost may be repeated" => lost_requests;
        "ERR-4", "a call that is dropped has happened as a whole or not at all, and the store works on" => dropped::whole_or_not_at_all;
        "ERR-5", "a malformed call is refused before anything is changed" => malformed::refused_before_anything;
        "ERR-6", "the password is shown nowhere" => no_password_is_shown;
        "ERR-7", "contention is waited out, and never an error of the database" => contention::is_waited_out;
        "ERR-8", "of calls that meet, each is done once and told so, whatever the store had to do again" => again::done_once;
    }
}

/// The properties of this group.
pub fn properties() -> Vec<Property> {
    let properties = listed::properties().into_iter();
    properties.map(|property| property.within(LIMIT)).collect()
}

/// Makes a call, which must end.
async fn in_time(store: &Store, scene: &Scene, breaking: &Breaking) -> Checked<Result<Answer>> {
    let limit = breaking.patience() + GRACE;
    match tokio::time::timeout(limit, scene.op.run(&**store)).await {
        Ok(answered) => Ok(answered),
        Err(_) => Err(Stop::fail(format!("`{}` has not ended after {limit:?}", scene.name))),
    }
}

fn check_kind(scene: &Scene, error: &Error) -> Checked {
    check!(
        error.is_transient(),
        "`{}` answered the error `{error}` ({:?}), which says that it would fail for ever",
        scene.name,
        error.kind()
    );
    Ok(())
}

async fn out_of_reach_is_told(case: &Case<'_>) -> Checked {
    let (broken, breaking) = case.broken_by(Fault::Unreachable).await?;
    let (store, reference) = (broken.store(), Reference::of(&broken)?);
    let scenes = scenes(&broken, "unreachable")?;
    let expected = reference.prepare(&broken, store, &scenes).await?;
    breaking.on().await?;
    let answers = join_all(scenes.iter().map(|scene| in_time(store, scene, &breaking)));
    let pinged = tokio::time::timeout(breaking.patience() + GRACE, store.ping());
    let (answers, pinged) = tokio::join!(answers, pinged);
    breaking.off().await?;
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let mut effects = Vec::new();
    for (scene, answer) in scenes.iter().zip(answers) {
        let error = match answer? {
            Ok(answer) => {
                return Err(Stop::fail(format!(
                    "`{}` answered {answer:?} while the store was out of reach",
                    scene.name
                )));
            }
            Err(error) => error,
        };
        let is_fit = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout);
        check!(
            is_fit,
            "`{}` answered the error `{error}` ({:?}) while the store was out of reach",
            scene.name,
            error.kind()
        );
        *kinds.entry(error.kind().to_string()).or_default() += 1;
        effects.push(error.effect());
    }
    match pinged {
        Ok(Err(error)) if error.is_transient() => {}
        other => return Err(Stop::fail(format!("a ping out of reach answered {other:?}"))),
    }
    for ((scene, expected), effect) in scenes.iter().zip(&expected).zip(effects) {
        check_effect(&reference, store, scene, expected, effect).await?;
    }
    case.note(format!("{} operations out of reach: {kinds:?}", scenes.len() + 1));
    Ok(())
}

/// Does it again until the connections that the fault has ended are gone.
async fn recovered<T, F>(what: &str, call: impl Fn() -> F) -> Checked<T>
where
    F: Future<Output = Checked<T>>,
{
    let mut tries = 0;
    loop {
        tries += 1;
        match call().await {
            Err(Stop::Fail(why)) if tries > STALE => {
                return Err(Stop::fail(format!("{what}, {tries} times after the fault: {why}")));
            }
            Err(Stop::Fail(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => return other,
        }
    }
}

/// That what a call has done fits what its error says of it. Answers whether it has happened.
async fn check_effect(
    reference: &Reference,
    store: &Store,
    scene: &Scene,
    expected: &Expected,
    effect: Effect,
) -> Checked<bool> {
    let mut looks = 0;
    loop {
        looks += 1;
        let seen = recovered("a read", || reference.look(&**store, scene)).await?;
        let unchanged = seen == expected.before;
        // A slot and its job are one; otherwise each job stands for itself.
        let is_fit = match (effect, scene.op.method()) {
            (Effect::None, _) => unchanged,
            (Effect::Unknown, "fire") => unchanged || seen == expected.once,
            (Effect::Unknown, _) => is_mixed(&seen, &expected.before, &expected.once),
        };
        if is_fit {
            return Ok(!unchanged);
        }
        // What takes several reads may have been read while it came.
        check!(
            looks < LOOKS && effect == Effect::Unknown,
            "`{}` failed with Effect::{effect:?}, and then there is {}",
            scene.name,
            difference(&seen, &expected.before, &expected.once)
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Whether each of these is as the one or the other has it.
fn is_mixed(seen: &[Value], one: &[Value], other: &[Value]) -> bool {
    seen.len() == one.len()
        && seen.iter().zip(one.iter().zip(other)).all(|(seen, (a, b))| seen == a || seen == b)
}

/// Whether an answer is, item by item, one of these two or a count between them.
fn is_between(answer: &Value, first: &Value, second: &Value) -> bool {
    match (answer, first, second) {
        (Value::Array(items), Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            items.len() == a.len()
                && items.iter().zip(a.iter().zip(b)).all(|(item, (a, b))| is_between(item, a, b))
        }
        (Value::Object(fields), Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            let within = |(name, value): (&String, &Value)| {
                a.get(name).zip(b.get(name)).is_some_and(|(a, b)| is_between(value, a, b))
            };
            fields.len() == a.len() && fields.iter().all(within)
        }
        (Value::Number(n), Value::Number(a), Value::Number(b)) => {
            let (n, a, b) = (n.as_f64(), a.as_f64(), b.as_f64());
            (a <= n && n <= b) || (b <= n && n <= a)
        }
        (other, a, b) => other == a || other == b,
    }
}

/// The first thing that is neither as it was nor as it should be.
fn difference(seen: &[Value], before: &[Value], after: &[Value]) -> String {
    let things = seen.iter().zip(before.iter().zip(after));
    let wrong = things.clone().find(|(seen, (a, b))| seen != a && seen != b);
    let wrong = wrong.or_else(|| things.clone().find(|(seen, (a, _))| seen != a));
    match wrong {
        Some((seen, (before, after))) => {
            format!(
                "\n  {seen}\nwhere before there was\n  {before}\nand after it there should be\n  {after}"
            )
        }
        None => format!("as much as {seen:?}"),
    }
}

/// That a repeat does what the call was to do, once.
async fn check_repeat(
    reference: &Reference,
    store: &Store,
    scene: &Scene,
    expected: &Expected,
) -> Checked {
    let answer =
        recovered("a repeat", || async { reference.answer(scene, scene.op.run(&**store).await?) });
    let answer = answer.await?;
    let [first, second] = &expected.answers;
    check!(
        is_between(&answer, first, second),
        "a repeat of `{}` answered\n  {answer}\nwhere a first call answers\n  {first}\nand a second one\n  {second}",
        scene.name
    );
    let seen = recovered("a read", || reference.look(&**store, scene)).await?;
    check!(
        is_mixed(&seen, &expected.once, &expected.twice),
        "after a repeat of `{}` there is {}",
        scene.name,
        difference(&seen, &expected.before, &expected.once)
    );
    Ok(())
}

async fn lost_answers(case: &Case<'_>) -> Checked {
    lost(case, Fault::AnswerLost).await
}

async fn lost_requests(case: &Case<'_>) -> Checked {
    lost(case, Fault::RequestLost).await
}

/// Every operation, until each has lost its request or its answer.
async fn lost(case: &Case<'_>, fault: Fault) -> Checked {
    let (broken, breaking) = case.broken_by(fault).await?;
    let (store, reference) = (broken.store(), Reference::of(&broken)?);
    let mut lost: BTreeMap<&str, usize> = BTreeMap::new();
    let (mut happened, mut rounds) = (0, 0);
    loop {
        rounds += 1;
        // Those that have not been met yet.
        let mut scenes = scenes(&broken, &format!("{fault} {rounds}"))?;
        scenes.retain(|scene| !lost.contains_key(scene.name));
        if scenes.is_empty() {
            break;
        }
        if rounds > ROUNDS {
            let left: Vec<&str> = scenes.iter().map(|scene| scene.name).collect();
            return Err(Stop::inconclusive(format!("`{fault}` never met {left:?}")));
        }
        let expected = reference.prepare(&broken, store, &scenes).await?;
        breaking.on().await?;
        let answers = join_all(scenes.iter().map(|scene| in_time(store, scene, &breaking))).await;
        breaking.off().await?;
        let mut calm = 0;
        while calm < 8 {
            // What the fault has left of the connections is used up here.
            calm = if store.ping().await.is_ok() { calm + 1 } else { 0 };
        }
        for ((scene, expected), answer) in scenes.iter().zip(&expected).zip(answers) {
            let error = match answer? {
                Ok(answer) => {
                    let answer = reference.answer(scene, answer)?;
                    check!(
                        answer == expected.answers[0],
                        "`{}` answered\n  {answer}\nwhere it should answer\n  {}",
                        scene.name,
                        expected.answers[0]
                    );
                    let seen = recovered("a read", || reference.look(&**store, scene)).await?;
                    check!(
                        seen == expected.once,
                        "`{}` was answered, and then there is {}",
                        scene.name,
                        difference(&seen, &expected.before, &expected.once)
                    );
                    continue;
                }
                Err(error) => error,
            };
            check_kind(scene, &error)?;
            let effect = if is_write(&scene.op) { error.effect() } else { Effect::None };
            let has = check_effect(&reference, store, scene, expected, effect).await?;
            happened += usize::from(has);
            check_repeat(&reference, store, scene, expected).await?;
            // An answer that was lost is the answer to something done; only reads do nothing.
            if fault == Fault::RequestLost || has || !is_write(&scene.op) {
                *lost.entry(scene.name).or_default() += 1;
            }
        }
    }
    case.note(format!(
        "{} operations with `{fault}` in {} rounds: {happened} had happened, all repeated",
        lost.len(),
        rounds - 1
    ));
    Ok(())
}

/// An error as anybody may come to see it, sources and all.
fn seen(error: &Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?} {}", error.message());
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?} {cause:#?}"));
        source = cause.source();
    }
    text
}

async fn no_password_is_shown(case: &Case<'_>) -> Checked {
    let mut texts = Vec::new();
    let secret = match case.broken_by(Fault::Unreachable).await {
        Err(Stop::Skip(_)) => look_for_secrets(case, None, &mut texts).await?,
        opened => {
            let (broken, breaking) = opened?;
            look_for_secrets(&broken, Some(&breaking), &mut texts).await?
        }
    };
    let secret = secret.ok_or_else(|| Stop::skip("no secret hook"))?;
    for (what, text) in &texts {
        check!(
            !text.contains(&secret),
            "{what} shows the password: {}",
            text.replace(&secret, "<the password>")
        );
    }
    case.note(format!("{} texts searched", texts.len()));
    Ok(())
}

async fn look_for_secrets(
    case: &Case<'_>,
    breaking: Option<&Breaking>,
    texts: &mut Vec<(String, String)>,
) -> Checked<Option<String>> {
    let Some(secret) = case.secret() else { return Ok(None) };
    let store = case.store();
    texts.push(("the store".to_owned(), format!("{store:?} {store:#?}")));
    texts.push(("its description".to_owned(), format!("{:?}", store.info())));
    for (what, op) in malformed::calls()? {
        if let Err(error) = op.run(&**store).await {
            texts.push((format!("the error of {what}"), seen(&error)));
        }
    }
    if let Some(breaking) = breaking {
        breaking.on().await?;
        let scenes = scenes(case, "secret")?;
        let answers = join_all(scenes.iter().map(|scene| in_time(store, scene, breaking))).await;
        for (scene, answer) in scenes.iter().zip(answers) {
            if let Err(error) = answer? {
                texts.push((format!("the error of `{}` out of reach", scene.name), seen(&error)));
            }
        }
        texts.push(("the store out of reach".to_owned(), format!("{store:?} {store:#?}")));
        breaking.off().await?;
    }
    Ok(Some(secret.to_owned()))
}
