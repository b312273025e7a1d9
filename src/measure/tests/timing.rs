//! Blocks: what is measured again, and who leaves the race.

use super::*;

#[test]
fn a_disturbed_block_is_measured_again_as_a_whole_but_one_in_four_at_most() {
    for (disturbed, redone) in
        [(vec![2], vec![0]), (vec![13], vec![]), (vec![7], vec![1]), ((1..99).collect(), vec![0])]
    {
        let place = Place::new();
        let mut fake = place.fake();
        fake.disturbed = disturbed.iter().copied().collect();
        place.run(suite(1), &mut fake, None).unwrap();
        let evidence = place.evidence();
        let blocks: Vec<usize> = evidence.set_aside.iter().map(|(block, _)| *block).collect();
        assert_eq!(blocks, redone, "{disturbed:?}");
        // 3 arms, 2 points, 2 blocks.
        assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (12, 12));
        assert_eq!(fake.calls.iter().filter(|c| c.starts_with("time")).count(), 12 + 6 * redone.len());
        if let Some((_, why)) = evidence.set_aside.first() {
            assert_eq!(why, "processor time stolen by the hypervisor above 5 %");
        }
    }
}

#[test]
fn slots_of_another_place_than_the_last_are_measured_again() {
    // The points of block 1 are slots 1 to 6, three with one thread, which tell nothing, and three with two.
    let two_threads = |slot: usize| 3 + slot;
    for (far, again) in [
        (vec![], 0),
        (vec![1], 1),
        // The last tells where the block ends: the others follow it.
        (vec![3, 4, 5, 6], 2),
        // The one that is measured again is elsewhere again; then the other two are, and are back; then it is.
        (vec![1, 4], 4),
    ] {
        let place = Place::new();
        let mut fake = place.fake();
        fake.far = far.iter().map(|slot| two_threads(*slot)).collect();
        let mut suite = suite(1);
        suite.workload.blocks = (1, 1);
        place.run(suite, &mut fake, None).unwrap();
        let evidence = place.evidence();
        assert_eq!(evidence.moved, again, "{far:?}");
        assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (6, 6), "{far:?}");
        let handovers: BTreeSet<String> =
            slots(&evidence).iter().filter_map(|s| s.covariates.handover_s).map(|both| format!("{both:?}")).collect();
        assert_eq!(handovers.len(), 1, "{far:?}: all of the block in one place");
        assert!(evidence.set_aside.is_empty());
    }
}

#[test]
fn a_machine_that_never_rests_costs_at_most_twice_the_time() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.far = (0..1000).filter(|slot| slot % 2 == 0).collect();
    place.run(suite(1), &mut fake, None).unwrap();
    let evidence = place.evidence();
    assert_eq!((slots(&evidence).len(), arms(&evidence).len()), (12, 12));
    assert!((1..=12).contains(&evidence.moved), "{}", evidence.moved);
}

#[test]
fn iterations_are_chosen_after_three_pilot_blocks_and_kept() {
    let place = Place::new();
    let mut suite = suite(1);
    suite.workload.blocks = (5, 5);
    suite.workload.pilot = true;
    place.run(suite, &mut place.fake(), None).unwrap();
    let evidence = place.evidence();
    // One iteration a slot shows no noise within it: nothing says that more are worth their time.
    assert_eq!(evidence.iterations, Some(1));
    let chosen = place.events().iter().position(|e| matches!(e, Event::Iterations { .. })).unwrap();
    let before = place.events()[..chosen].iter().filter(|e| matches!(e, Event::Slot(_))).count();
    assert_eq!(before, 3 * 6, "three blocks of three arms at two points");
}

#[test]
fn a_slowdown_is_planted_in_its_variant_alone() {
    let place = Place::new();
    let planted = BTreeMap::from([("q2".to_string(), 0.5)]);
    let inputs = Inputs { planted, ..inputs(suite(2)) };
    let (folder, mut fake) = (RunFolder::create_at(&place.folder()).unwrap(), place.fake());
    go(Session::begin(inputs, folder, &mut fake, Progress::new(true)).unwrap(), None, &undecided).unwrap();
    for slot in slots(&place.evidence()) {
        let expected = if slot.variant == "q2" { 0.2 * 1.5 } else { 0.2 };
        assert_eq!(slot.samples[0].decode_s, expected, "{}", slot.variant);
    }
}

#[test]
fn a_budget_is_kept_but_never_below_the_fewest_blocks() {
    for (budget_s, expected) in [(1, 2), (44, 4), (10_000, 9)] {
        let place = Place::new();
        let mut suite = suite(2);
        suite.workload.blocks = (2, 9);
        let mut fake = place.fake();
        place.run(suite, &mut fake, Some(Duration::from_secs(budget_s))).unwrap();
        // 7 calls to build and score, then blocks of 8 seconds: 7 + 4 * 8 = 39 fits 44, a fifth does not.
        assert_eq!(place.evidence().timed_blocks(), expected, "{budget_s}");
        let why = if expected < 9 { Some((expected, Leaving::Budget)) } else { None };
        assert_eq!(place.evidence().left.get("q1").copied(), why, "{budget_s}");
        assert_eq!(slots(&place.evidence()).len(), expected * 8);
        let over = budget_s > 1 && fake.now > budget_s as f64;
        assert!(!over, "{} of {budget_s}", fake.now);
    }
}

/// Blocks in which a variant was timed, with one thread.
fn blocks_of(evidence: &Evidence, name: &str) -> Vec<usize> {
    evidence.variants[name].slots.iter().filter(|s| s.threads == 1 && !s.control).map(|s| s.block).collect()
}

pub(super) fn racing_suite(blocks: (usize, usize)) -> Suite {
    let mut suite = suite(2);
    suite.workload.blocks = blocks;
    suite
}

#[test]
fn decided_candidates_leave_and_the_race_ends_with_the_last() {
    let place = Place::new();
    place.race(racing_suite((2, 9)), &mut place.fake(), None, &decided_in_turn).unwrap();
    let evidence = place.evidence();
    assert_eq!(blocks_of(&evidence, "q1"), [0, 1], "not before the fewest");
    assert_eq!(blocks_of(&evidence, "q2"), [0, 1, 2, 3]);
    assert_eq!(blocks_of(&evidence, "fp16"), [0, 1, 2, 3]);
    assert_eq!(evidence.variants["fp16"].slots.iter().filter(|s| s.control).count(), 8, "the control stays too");
    let expected = [("q1".to_string(), (2, Leaving::Decided)), ("q2".to_string(), (4, Leaving::Decided))];
    assert_eq!(evidence.left, BTreeMap::from(expected));
}

#[test]
fn a_fixed_number_of_blocks_is_measured_whatever_is_decided() {
    let place = Place::new();
    place.race(racing_suite((5, 5)), &mut place.fake(), None, &decided_in_turn).unwrap();
    assert_eq!(blocks_of(&place.evidence(), "q1").len(), 5);
    assert!(place.evidence().left.is_empty());
}

#[test]
fn what_is_futile_stops_and_goes_on_later_in_new_blocks_only() {
    let place = Place::new();
    let hopeless = |evidence: &Evidence| {
        let mut standings = undecided(evidence);
        standings.insert("q1".into(), Standing::Decided);
        standings.insert("q2".into(), Standing::Open { missing_blocks: None });
        standings
    };
    place.race(racing_suite((2, 30)), &mut place.fake(), None, &hopeless).unwrap();
    assert_eq!(place.evidence().left["q2"], (10, Leaving::Futile));

    let mut fake = place.fake();
    let folder = RunFolder::open(&place.folder()).unwrap();
    let mut session = Session::resume(inputs(racing_suite((2, 30))), folder, &mut fake, Progress::new(true)).unwrap();
    let two_more = |evidence: &Evidence| {
        let done = evidence.timed_blocks() >= 12;
        let standing = if done { Standing::Decided } else { Standing::Open { missing_blocks: Some(1) } };
        BTreeMap::from([("q1".to_string(), Standing::Decided), ("q2".to_string(), standing)])
    };
    assert!(session.is_finished() && session.go_on(&two_more).unwrap() && !session.is_finished());
    go(session, None, &two_more).unwrap();
    let evidence = place.evidence();
    assert_eq!(blocks_of(&evidence, "q1"), [0, 1], "what was decided stays decided");
    assert_eq!(blocks_of(&evidence, "q2"), (0..12).collect::<Vec<_>>());
    assert_eq!(evidence.plan.map(|plan| (plan.first, plan.closed)), Some((30, 10)));
    let calls = |kind: &str| fake.calls.iter().filter(|call| call.starts_with(kind)).count();
    assert_eq!(calls("time"), 12, "three arms at two points in two blocks");
    assert_eq!((calls("build"), calls("score")), (3, 0), "artefacts are verified, nothing is scored again");

    let folder = RunFolder::open(&place.folder()).unwrap();
    let mut fake = place.fake();
    let mut session = Session::resume(inputs(racing_suite((2, 30))), folder, &mut fake, Progress::new(true)).unwrap();
    assert!(!session.go_on(&two_more).unwrap() && session.is_finished(), "nothing is left to decide");
}
