use queue_core::{Error, Job, Payload, QueueName, State, Timestamp, When};

use super::{Flaw, Mutant, raw};

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant::new("text-without-nul", "an escaped NUL is dropped", &["FID-1"], || {
        Flaw::none().texts(|text| text.replace("\\u0000", ""))
    }),
    Mutant::new("text-without-surrogates", "a lone surrogate becomes U+FFFD", &["FID-1"], || {
        Flaw::none().texts(replace_lone_surrogates)
    }),
    Mutant::new(
        "text-of-three-bytes",
        "characters of four bytes become question marks",
        &["FID-1"],
        || {
            Flaw::none().texts(|text| {
                text.chars().map(|c| if c.len_utf8() == 4 { '?' } else { c }).collect()
            })
        },
    ),
    Mutant::new("text-without-combining-marks", "combining marks are lost", &["FID-1"], || {
        Flaw::none()
            .texts(|text| text.chars().filter(|c| !('\u{300}'..='\u{36f}').contains(c)).collect())
    }),
    Mutant::new(
        "text-unescaped",
        "escapes are replaced by what they stand for",
        &["FID-1"],
        || {
            Flaw::none().texts(|text| {
                map_tokens(
                    text,
                    &|string| {
                        serde_json::from_str::<String>(string)
                            .and_then(|plain| serde_json::to_string(&plain))
                            .unwrap_or_else(|_| string.to_owned())
                    },
                    &str::to_owned,
                )
            })
        },
    ),
    Mutant::new("numbers-through-f64", "numbers pass through a double", &["FID-2"], || {
        Flaw::none().texts(|text| {
            map_tokens(text, &str::to_owned, &|number| match number.parse::<f64>() {
                Ok(double) if double.is_finite() => format!("{double}"),
                _ => number.to_owned(),
            })
        })
    }),
    Mutant::new(
        "numbers-of-64-signed-bits",
        "whole numbers are clamped to i64",
        &["FID-2"],
        || {
            Flaw::none().texts(|text| {
                map_tokens(text, &str::to_owned, &|number| match number.parse::<i128>() {
                    Ok(whole) => whole.clamp(i64::MIN.into(), i64::MAX.into()).to_string(),
                    Err(_) => number.to_owned(),
                })
            })
        },
    ),
    Mutant::new("numbers-without-negative-zero", "-0.0 becomes 0.0", &["FID-2"], || {
        Flaw::none().texts(|text| {
            map_tokens(text, &str::to_owned, &|number| match number {
                "-0.0" => "0.0".to_owned(),
                "-0" => "0".to_owned(),
                other => other.to_owned(),
            })
        })
    }),
    Mutant::new(
        "payload-through-jsonb",
        "payloads are parsed and written again",
        &["FID-1", "FID-3"],
        || {
            Flaw::none().texts(|text| {
                let spoiled = text.replace("\\u0000", "");
                let parsed = serde_json::from_str::<serde_json::Value>(&spoiled);
                parsed.map_or(spoiled, |value| value.to_string())
            })
        },
    ),
    Mutant::new("payload-compacted", "white space within a payload is lost", &["FID-3"], || {
        Flaw::none().texts(|text| {
            let outside = |text: &str| text.replace([' ', '\n', '\t', '\r'], "");
            map_outside(text, &outside)
        })
    }),
    Mutant::new("payload-keys-sorted", "keys are sorted and doubles dropped", &["FID-3"], || {
        Flaw::none().texts(|text| {
            match serde_json::from_str::<
                std::collections::BTreeMap<String, &serde_json::value::RawValue>,
            >(text)
            {
                Ok(map) => serde_json::to_string(&map).unwrap_or_else(|_| text.to_owned()),
                Err(_) => text.to_owned(),
            }
        })
    }),
    Mutant::new(
        "dollar-is-a-field-path",
        "a string that begins with $ is read as a path",
        &["FID-4"],
        || Flaw::none().texts(|text| text.replace("\"$", "\"")),
    ),
    Mutant::new(
        "dots-in-keys-become-underscores",
        "a key with a dot is mended",
        &["FID-4"],
        || {
            Flaw::none()
                .texts(|text| map_tokens(text, &|string| string.replace('.', "_"), &str::to_owned))
        },
    ),
    Mutant::new("payload-of-64-kib", "a payload over 64 KiB becomes null", &["FID-5"], || {
        Flaw::none().texts(|text| match text.len() > 65_535 {
            true => "null".to_owned(),
            false => text.to_owned(),
        })
    }),
    Mutant::new("payload-limit-not-kept", "an input over the limit is stored", &["FID-5"], || {
        Flaw::none().insert(|world, jobs, now| {
            let mut small = jobs.to_vec();
            small.iter_mut().for_each(|job| job.input = Payload::null());
            let answers = world.insert(&small, now)?;
            for (job, answer) in jobs.iter().zip(&answers) {
                if answer.is_new() {
                    world.edit(job.id, |stored| stored.row.input = job.input.clone());
                }
            }
            Ok(answers)
        })
    }),
    Mutant::new(
        "payload-limit-off-by-one",
        "a payload of exactly the limit is refused",
        &["FID-5"],
        || {
            Flaw::none().insert(|world, jobs, now| {
                match jobs.iter().any(|job| job.input.len() == 2 * 1024 * 1024) {
                    true => {
                        Err(Error::new(queue_core::ErrorKind::TooLarge, "too large by nothing"))
                    }
                    false => world.insert(jobs, now),
                }
            })
        },
    ),
    Mutant::new("times-in-milliseconds", "times are kept in milliseconds", &["FID-6"], || {
        Flaw::none().reading(|job| {
            times(job, |at| at.as_micros().div_euclid(1_000) * 1_000);
        })
    }),
    Mutant::new("due-time-in-milliseconds", "run_at is kept in milliseconds", &["FID-6"], || {
        Flaw::none().writing(|job| due(job, |at| at.div_euclid(1_000) * 1_000))
    }),
    Mutant::new("times-end-in-2262", "times are nanoseconds in 64 bits", &["FID-6"], || {
        Flaw::none().writing(|job| due(job, |at| at.clamp(i64::MIN / 1_000, i64::MAX / 1_000)))
    }),
    Mutant::new("times-begin-in-1970", "a time before 1970 becomes 1970", &["FID-6"], || {
        Flaw::none().writing(|job| due(job, |at| at.max(0)))
    }),
    Mutant::new("names-cut-at-63", "names are cut at 63 bytes", &["FID-7"], || {
        Flaw::none().writing(|job| {
            let cut = |text: &str| {
                let mut end = text.len().min(63);
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text[..end].to_owned()
            };
            rename(job, &cut);
        })
    }),
    Mutant::new("names-with-quotes-doubled", "a quote in a name is doubled", &["FID-7"], || {
        Flaw::none().writing(|job| rename(job, &|text| text.replace('\'', "''")))
    }),
    Mutant::new(
        "names-end-at-a-semicolon",
        "what follows a semicolon in a name is lost",
        &["FID-7"],
        || {
            Flaw::none().writing(|job| {
                rename(job, &|text| match text.split_once(';') {
                    Some((before, _)) if !before.is_empty() => before.to_owned(),
                    _ => text.to_owned(),
                });
            })
        },
    ),
    Mutant::new("names-trimmed", "white space around a name is lost", &["FID-7"], || {
        Flaw::none().writing(|job| rename(job, &|text| text.trim().to_owned()))
    }),
    Mutant::new("depth-limited-to-64", "a deep payload is refused", &["FID-8"], || {
        Flaw::none().insert(|world, jobs, now| {
            match jobs.iter().any(|job| depth(job.input.as_str()) > 64) {
                true => Err(Error::invalid("recursion limit exceeded")),
                false => world.insert(jobs, now),
            }
        })
    }),
    Mutant::new(
        "absent-output-is-null",
        "a job without output has the output null",
        &["FID-9"],
        || {
            Flaw::none().changing(|was, is, _| {
                if raw::ended(was, is, State::Completed) && is.row.output.is_none() {
                    is.row.output = Some(Payload::null());
                }
            })
        },
    ),
    Mutant::new("null-output-is-absent", "the output null is no output", &["FID-9"], || {
        Flaw::none().reading(|job| {
            job.output = job.output.take().filter(|output| output.as_str() != "null");
        })
    }),
];

/// Maps the string and the number tokens of a JSON text, and leaves the rest.
fn map_tokens(
    text: &str,
    string: &dyn Fn(&str) -> String,
    number: &dyn Fn(&str) -> String,
) -> String {
    let mut mapped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = match first {
            '"' => string_end(rest),
            '-' | '0'..='9' => rest
                .find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9'))
                .unwrap_or(rest.len()),
            other => other.len_utf8(),
        };
        let (token, after) = rest.split_at(end);
        match first {
            '"' => mapped.push_str(&string(token)),
            '-' | '0'..='9' => mapped.push_str(&number(token)),
            _ => mapped.push_str(token),
        }
        rest = after;
    }
    mapped
}

/// Maps what stands outside the strings of a JSON text.
fn map_outside(text: &str, outside: &dyn Fn(&str) -> String) -> String {
    let mut mapped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(quote) = rest.find('"') {
        let (before, string) = rest.split_at(quote);
        let (string, after) = string.split_at(string_end(string));
        mapped.push_str(&outside(before));
        mapped.push_str(string);
        rest = after;
    }
    mapped + &outside(rest)
}

/// Where the string token ends with which this text begins.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn replace_lone_surrogates(text: &str) -> String {
    let mut mapped = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("\\u") {
        let (before, escape) = rest.split_at(at);
        mapped.push_str(before);
        let unit = |text: &str| text.get(2..6).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        let Some(code) = unit(escape) else { return mapped + escape };
        let (this, after) = escape.split_at(6);
        let paired = (0xd800..0xdc00).contains(&code)
            && after.starts_with("\\u")
            && unit(after).is_some_and(|low| (0xdc00..0xe000).contains(&low));
        match code {
            _ if paired => {
                mapped.push_str(this);
                mapped.push_str(&after[..6]);
                rest = &after[6..];
            }
            0xd800..0xe000 => {
                mapped.push_str("\\ufffd");
                rest = after;
            }
            _ => {
                mapped.push_str(this);
                rest = after;
            }
        }
    }
    mapped + rest
}

fn depth(text: &str) -> usize {
    let mut depth: usize = 0;
    let mut deepest = 0;
    for c in map_tokens(text, &|_| String::new(), &|_| String::new()).chars() {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// Maps every time of a job.
fn times(job: &mut Job, map: fn(Timestamp) -> i64) {
    let map = |at: &mut Timestamp| *at = Timestamp::from_micros_saturating(map(*at));
    map(&mut job.created_at);
    map(&mut job.run_at);
    [&mut job.started_at, &mut job.finished_at, &mut job.lease_until]
        .into_iter()
        .flatten()
        .for_each(map);
    job.log.iter_mut().for_each(|entry| map(&mut entry.at));
}

fn due(job: &mut queue_core::NewJob, map: fn(i64) -> i64) {
    if let When::At(at) = job.when {
        job.when = When::At(Timestamp::from_micros_saturating(map(at.as_micros())));
    }
}

/// Maps every name of a job; a name that is malformed then stays as it was.
fn rename(job: &mut queue_core::NewJob, map: &dyn Fn(&str) -> String) {
    if let Ok(queue) = QueueName::new(map(job.queue.as_str())) {
        job.queue = queue;
    }
    job.kind = map(&job.kind).into();
    job.labels = job.labels.iter().map(|(key, value)| (map(key), map(value))).collect();
    if let Some(unique) = &mut job.unique {
        unique.key = map(&unique.key);
    }
    if let Some(lane) = &mut job.lane {
        lane.key = map(&lane.key);
    }
}
