use proptest::prelude::*;

use super::*;

const GRACE: SignedDuration = SignedDuration::from_secs(60);

fn at(text: &str) -> Timestamp {
    format!("2026-01-01T{text}Z").parse().unwrap()
}

fn minutes() -> Rhythm {
    Rhythm::cron("* * * * *", "UTC").unwrap()
}

fn standing(first: &str, now: &str, catch_up: CatchUp) -> Standing {
    Standing { first: at(first), now: at(now), grace: GRACE, catch_up, most: 3 }
}

/// What fires, and what is next, in minutes of the day.
fn told(rhythm: &Rhythm, standing: &Standing) -> (Vec<String>, String) {
    let short = |at: Timestamp| at.strftime("%H:%M").to_string();
    let plan = plan(rhythm, standing);
    (plan.fire.into_iter().map(short).collect(), plan.next.map_or_else(String::new, short))
}

#[test]
fn what_is_not_due_is_waited_for_and_what_is_late_by_less_than_the_grace_fires_in_any_case() {
    for catch_up in CatchUp::ALL {
        let waits = told(&minutes(), &standing("10:00:00", "09:59:59", *catch_up));
        assert_eq!(waits, (vec![], "10:00".to_owned()));
        let late = told(&minutes(), &standing("10:00:00", "10:01:00", *catch_up));
        assert_eq!(late, (vec!["10:00".to_owned(), "10:01".to_owned()], "10:02".to_owned()), "{catch_up}");
    }
}

#[test]
fn after_an_outage_each_policy_does_what_it_says() {
    let after = |catch_up| told(&minutes(), &standing("08:00:00", "10:00:30", catch_up));
    assert_eq!(after(CatchUp::Skip), (vec!["10:00".to_owned()], "10:01".to_owned()));
    assert_eq!(after(CatchUp::One), (vec!["10:00".to_owned()], "10:01".to_owned()), "it stands for the others too");
    let all = ["09:57", "09:58", "09:59", "10:00"].map(str::to_owned).to_vec();
    assert_eq!(after(CatchUp::All), (all, "10:01".to_owned()), "three that were missed, and one on time");

    let nightly = Rhythm::cron("0 2 * * *", "UTC").unwrap();
    let after = |catch_up| told(&nightly, &standing("02:00:00", "10:00:00", catch_up));
    assert_eq!(after(CatchUp::Skip).0, Vec::<String>::new());
    assert_eq!(after(CatchUp::One).0, ["02:00"]);
    assert_eq!(after(CatchUp::All).0, ["02:00"]);
    assert!(plan(&nightly, &standing("02:00:00", "10:00:00", CatchUp::Skip)).left_out.is_some());
    assert_eq!(plan(&nightly, &standing("02:00:00", "10:00:00", CatchUp::One)).left_out, None);
}

#[test]
fn a_year_of_seconds_is_not_walked_through_for_the_last_of_them() {
    let rhythm = Rhythm::cron("* * * * * *", "Europe/Berlin").unwrap();
    let now = at("10:00:00");
    let first = now - SignedDuration::from_hours(365 * 24);
    let began = std::time::Instant::now();
    let plan = plan(&rhythm, &Standing { first, now, grace: GRACE, catch_up: CatchUp::All, most: 1000 });
    assert_eq!(plan.fire[0], now - GRACE - SignedDuration::from_secs(1000));
    assert_eq!(plan.fire.len(), AT_ONCE);
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
}

/// Ticks all of whose looks came in time, and what else the policy wants: by the definition, over the whole range at once.
fn wanted(rhythm: &Rhythm, first: Timestamp, looks: &[Timestamp], catch_up: CatchUp, most: usize) -> Vec<Timestamp> {
    let mut fired = Vec::new();
    let mut next = Some(first);
    for now in looks {
        let due: Vec<Timestamp> =
            successors(next, |tick| rhythm.next_after(*tick)).take_while(|tick| tick <= now).collect();
        let Some(last) = due.last() else { continue };
        next = rhythm.next_after(*last);
        let (missed, on_time): (Vec<_>, Vec<_>) = due.iter().partition(|tick| **tick < *now - GRACE);
        let keep = match catch_up {
            CatchUp::Skip => 0,
            CatchUp::One => usize::from(on_time.is_empty()),
            CatchUp::All => most,
        };
        fired.extend_from_slice(&missed[missed.len().saturating_sub(keep)..]);
        fired.extend(on_time);
    }
    fired
}

proptest! {
    /// A look is cut into pieces of [`AT_ONCE`]; together they are what the definition says of the whole range. Nothing is
    /// lost, nothing doubled, nothing out of order.
    #[test]
    fn ticks_fired_piece_by_piece_are_those_that_the_policy_wants_of_the_whole_range(
        every in 1_i64..600, gaps in prop::collection::vec(0_i64..4000, 1..8), which in 0_usize..3, most in 1_usize..50,
    ) {
        let catch_up = CatchUp::ALL[which];
        let begin = at("00:00:00");
        let rhythm = Rhythm::every(SignedDuration::from_secs(every), begin).unwrap();
        let first = rhythm.next_after(begin).unwrap();
        let looks: Vec<Timestamp> = gaps
            .iter()
            .scan(begin, |now, gap| {
                *now += SignedDuration::from_secs(*gap);
                Some(*now)
            })
            .collect();
        let mut fired = Vec::new();
        let mut next = Some(first);
        for now in &looks {
            while let Some(first) = next.filter(|next| next <= now) {
                let plan = plan(&rhythm, &Standing { first, now: *now, grace: GRACE, catch_up, most });
                prop_assert!(plan.next > Some(first), "it goes forward");
                fired.extend(plan.fire);
                next = plan.next;
            }
        }
        prop_assert!(fired.is_sorted_by(|one, other| one < other));
        prop_assert_eq!(fired, wanted(&rhythm, first, &looks, catch_up, most));
    }
}
