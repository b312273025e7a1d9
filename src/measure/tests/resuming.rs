//! Runs that were killed or interrupted, and folders of other runs.

use super::timing::racing_suite;
use super::*;

#[test]
fn a_race_killed_after_any_event_ends_as_if_it_had_not_been() {
    let whole = Place::new();
    whole.race(racing_suite((2, 9)), &mut whole.fake(), None, &decided_in_turn).unwrap();
    let journal = fs::read_to_string(whole.folder().join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    for kept in 1..lines.len() {
        let place = Place::killed(&lines[..kept], "");
        place.resume_race(inputs(racing_suite((2, 9))), &mut place.fake(), &decided_in_turn).unwrap();
        assert_eq!(arms(&place.evidence()), arms(&whole.evidence()), "{kept}");
        assert_eq!(place.evidence().left, whole.evidence().left, "{kept}");
    }
}

#[test]
fn a_run_killed_after_any_event_ends_with_the_same_evidence() {
    let whole = Place::new();
    whole.run(suite(2), &mut whole.fake(), None).unwrap();
    let journal = fs::read_to_string(whole.folder().join(JOURNAL)).unwrap();
    let lines: Vec<&str> = journal.lines().collect();
    for kept in 1..lines.len() {
        // Half of the next line was written when the process was killed.
        let next = &lines[kept][..lines[kept].len() / 2];
        let place = Place::killed(&lines[..kept], next);
        let mut fake = place.fake();
        place.resume(inputs(suite(2)), &mut fake).unwrap();
        let evidence = place.evidence();
        assert_eq!(arms(&evidence), arms(&whole.evidence()), "{kept}");
        assert_eq!(slots(&evidence).len(), 16, "{kept}: nothing is measured twice");
        for (name, found) in &evidence.variants {
            let expected = &whole.evidence().variants[name].scores["perplexity"].windows;
            assert_eq!(&found.scores["perplexity"].windows, expected, "{kept} {name}");
        }
        let measured = fake.calls.iter().filter(|c| c.starts_with("time")).count();
        let recorded = lines[..kept].iter().filter(|l| l.contains("\"event\":\"slot\"")).count();
        assert_eq!(measured + recorded, 16, "{kept}");
        assert!(evidence.finished_unix_s.is_some() && !place.folder().join("scratch").exists());
    }
}

#[test]
fn an_interrupted_run_stops_at_once_and_goes_on_later() {
    for calls in 1..20 {
        let place = Place::new();
        let mut fake = place.fake();
        fake.interrupt_after = calls;
        let error = place.run(suite(2), &mut fake, None).unwrap_err().to_string();
        assert!(error.contains("interrupted"), "{error}");
        assert_eq!(fake.calls.len(), calls);
        assert!(place.evidence().variants.values().all(|v| v.failures.is_empty()));
        place.resume(inputs(suite(2)), &mut place.fake()).unwrap();
        assert_eq!(arms(&place.evidence()).len(), 16);
    }
}

#[test]
fn a_finished_run_has_nothing_left_to_do() {
    let place = Place::new();
    place.run(suite(1), &mut place.fake(), None).unwrap();
    let before = place.events();
    let mut fake = place.fake();
    place.resume(inputs(suite(1)), &mut fake).unwrap();
    assert!(fake.calls.is_empty());
    assert_eq!(place.events(), before);
}

#[test]
fn another_suite_model_or_machine_is_not_mixed_into_a_run() {
    let place = Place::new();
    let mut fake = place.fake();
    fake.interrupt_after = 5;
    place.run(suite(2), &mut fake, None).unwrap_err();
    let mut others = vec![inputs(suite(3)), inputs(suite(2)), inputs(suite(2)), inputs(suite(2))];
    others[1].model_sha256 = "bb".into();
    others[2].machine.cpu = "another".into();
    others[3].machine.isa = "avx2".into();
    for (other, word) in others.into_iter().zip(["suite file", "model", "machine", "machine"]) {
        let error = place.resume(other, &mut place.fake()).unwrap_err();
        assert_eq!(error.exit_code(), 4);
        assert!(error.to_string().contains(word), "{error}");
    }
}
