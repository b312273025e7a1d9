//! The acceptance rule as three-valued logic (Kleene 1938).

use crate::results::{Answer, Answers, Outcome};

/// The five forms of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    Accuracy,
    AccuracyAndSpeed,
    AccuracyAndMemory,
    AccuracyAndEither,
    AccuracyAndBoth,
}

/// Every form as written in suite files.
const FORMS: [(&str, Rule); 5] = [
    ("accuracy", Rule::Accuracy),
    ("accuracy and speed", Rule::AccuracyAndSpeed),
    ("accuracy and memory", Rule::AccuracyAndMemory),
    ("accuracy and (speed or memory)", Rule::AccuracyAndEither),
    ("accuracy and speed and memory", Rule::AccuracyAndBoth),
];

impl Rule {
    /// The rule of a text, whatever its spaces; `None` for another form.
    pub fn parse(text: &str) -> Option<Rule> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let text = words.join(" ");
        FORMS.iter().find(|(form, _)| *form == text).map(|(_, rule)| *rule)
    }

    /// Whether speed is one of its questions.
    pub fn asks_speed(self) -> bool {
        !matches!(self, Rule::Accuracy | Rule::AccuracyAndMemory)
    }

    /// Whether an answer about speed could decide what is undecided under the other answers.
    pub fn depends_on_speed(self, answers: &Answers) -> bool {
        let with = |speed| self.outcome(&Answers { speed: Some(speed), ..answers.clone() });
        let open = with(Answer::Unknown) == Outcome::Inconclusive;
        open && [Answer::Yes, Answer::No].into_iter().any(|speed| with(speed) != Outcome::Inconclusive)
    }

    /// The outcome under `answers`; a threshold that the rule names and the suite lacks is unknown.
    pub fn outcome(self, answers: &Answers) -> Outcome {
        let accuracy = answers.accuracy;
        let speed = answers.speed.unwrap_or(Answer::Unknown);
        let memory = answers.memory.unwrap_or(Answer::Unknown);
        let holds = match self {
            Rule::Accuracy => accuracy,
            Rule::AccuracyAndSpeed => and(accuracy, speed),
            Rule::AccuracyAndMemory => and(accuracy, memory),
            Rule::AccuracyAndEither => and(accuracy, or(speed, memory)),
            Rule::AccuracyAndBoth => and(accuracy, and(speed, memory)),
        };
        match holds {
            Answer::Yes => Outcome::Accept,
            Answer::No => Outcome::Reject,
            Answer::Unknown => Outcome::Inconclusive,
        }
    }
}

fn and(a: Answer, b: Answer) -> Answer {
    match (a, b) {
        (Answer::No, _) | (_, Answer::No) => Answer::No,
        (Answer::Yes, Answer::Yes) => Answer::Yes,
        _ => Answer::Unknown,
    }
}

fn or(a: Answer, b: Answer) -> Answer {
    match (a, b) {
        (Answer::Yes, _) | (_, Answer::Yes) => Answer::Yes,
        (Answer::No, Answer::No) => Answer::No,
        _ => Answer::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Answer; 3] = [Answer::No, Answer::Unknown, Answer::Yes];

    #[test]
    fn every_form_is_known_and_nothing_else() {
        for (form, rule) in FORMS {
            assert_eq!(Rule::parse(&format!("  {} ", form.replace(' ', "  "))), Some(rule));
        }
        for other in ["", "speed", "accuracy or speed", "accuracy and speed or memory"] {
            assert_eq!(Rule::parse(other), None);
        }
    }

    /// Kleene's logic agrees with every way of filling in the unknowns.
    #[test]
    fn an_outcome_is_decided_exactly_when_no_unknown_could_change_it() {
        let fill = |a: Answer| if a == Answer::Unknown { vec![Answer::No, Answer::Yes] } else { vec![a] };
        for (_, rule) in FORMS {
            for accuracy in ALL {
                for (speed, memory) in ALL.into_iter().flat_map(|s| ALL.map(|m| (s, m))) {
                    let mut outcomes = Vec::new();
                    for a in fill(accuracy) {
                        for s in fill(speed) {
                            for m in fill(memory) {
                                let answers = Answers { accuracy: a, speed: Some(s), memory: Some(m) };
                                outcomes.push(rule.outcome(&answers));
                            }
                        }
                    }
                    let answers = Answers { accuracy, speed: Some(speed), memory: Some(memory) };
                    let same = outcomes.iter().all(|o| *o == outcomes[0]);
                    let expected = if same { outcomes[0] } else { Outcome::Inconclusive };
                    assert_eq!(rule.outcome(&answers), expected, "{rule:?} {answers:?}");
                }
            }
        }
    }

    #[test]
    fn speed_matters_only_where_it_could_decide() {
        let depends = |rule: Rule, accuracy, memory| {
            rule.depends_on_speed(&Answers { accuracy, speed: Some(Answer::Unknown), memory: Some(memory) })
        };
        assert!(depends(Rule::AccuracyAndEither, Answer::Yes, Answer::No));
        assert!(!depends(Rule::AccuracyAndEither, Answer::Yes, Answer::Yes), "its memory satisfies the rule");
        assert!(!depends(Rule::AccuracyAndEither, Answer::No, Answer::No), "rejected already");
        assert!(depends(Rule::AccuracyAndEither, Answer::Unknown, Answer::No), "a no would reject");
        assert!(!depends(Rule::AccuracyAndEither, Answer::Unknown, Answer::Yes));
        assert!(!depends(Rule::AccuracyAndMemory, Answer::Unknown, Answer::Unknown));
    }

    #[test]
    fn a_missing_threshold_never_passes() {
        let answers = Answers { accuracy: Answer::Yes, speed: None, memory: None };
        assert_eq!(Rule::Accuracy.outcome(&answers), Outcome::Accept);
        assert_eq!(Rule::AccuracyAndEither.outcome(&answers), Outcome::Inconclusive);
    }
}
