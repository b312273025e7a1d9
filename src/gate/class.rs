//! What machines must share for numbers to repeat to the last bit, and for times to be comparable.
//!
//! Neither name holds a clock reading or a load: these differ from minute to minute on one machine and would split it into
//! many.

use crate::machine::MachineRecord;

/// Machines with the same name of this kind repeat every deterministic number: architecture, instruction set in use, the
/// sets that libraries may choose from, and whether kernels multiply bfloat16.
pub fn number_class(machine: &MachineRecord) -> String {
    let bf16 = machine.facts.get("bfloat16_products").map_or("unknown", String::as_str);
    format!("{} {} of {}, bfloat16 {bf16}", machine.arch, machine.isa, machine.instruction_sets.join("+"))
}

/// Machines with the same name of this kind may be compared in time: processor, instruction sets, processors that may be
/// used (affinity and quota), caches, hypervisor.
pub fn machine_class(machine: &MachineRecord) -> String {
    let caches = machine.facts.iter().filter(|(name, _)| name.starts_with("cache_l"));
    // Which processors share a cache is numbered anew on every host.
    let caches = caches.map(|(_, size)| size.split(',').next().unwrap_or_default().to_string());
    let virtual_machine = match machine.virtual_machine {
        Some(true) => "virtual",
        Some(false) => "not virtual",
        None => "unknown",
    };
    format!(
        "{}, {}, {} processors, caches {}, {virtual_machine}",
        machine.cpu,
        number_class(machine),
        machine.cores,
        caches.collect::<Vec<_>>().join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> MachineRecord {
        MachineRecord {
            cpu: "A CPU".into(),
            arch: "x86_64".into(),
            instruction_sets: vec!["scalar".into(), "avx2".into()],
            isa: "avx2".into(),
            cores: 2,
            memory_bytes: 1 << 30,
            os: "Linux".into(),
            host: "a".into(),
            timer: None,
            virtual_machine: Some(true),
            disturbances: Vec::new(),
            facts: [("cache_l3", "32768K, processors 0-1"), ("load_average", "3.1 2 1")]
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .into(),
        }
    }

    #[test]
    fn classes_hold_what_matters_and_no_clock_or_load() {
        let here = machine();
        assert_eq!(number_class(&here), "x86_64 avx2 of scalar+avx2, bfloat16 unknown");
        assert!(machine_class(&here).starts_with("A CPU, x86_64 avx2"), "{}", machine_class(&here));
        let mut other = here.clone();
        other.facts.insert("load_average".into(), "0 0 0".into());
        other.facts.insert("cache_l3".into(), "32768K, processors 4-5".into());
        (other.host, other.memory_bytes) = ("b".into(), 0);
        assert_eq!(machine_class(&here), machine_class(&other));
        for change in [
            |m: &mut MachineRecord| m.cpu.push('2'),
            |m: &mut MachineRecord| m.cores = 4,
            |m: &mut MachineRecord| m.isa = "scalar".into(),
            |m: &mut MachineRecord| _ = m.facts.insert("cache_l3".into(), "16384K".into()),
        ] {
            let mut other = here.clone();
            change(&mut other);
            assert_ne!(machine_class(&here), machine_class(&other));
        }
    }
}
