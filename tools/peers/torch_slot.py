"""A slot of PyTorch with the classes of transformers: a prompt (the last token's logits only) or an encoder's batch."""

import torch
import transformers

import slot

job = slot.job()
torch.set_num_threads(job["threads"])
kind = transformers.AutoModel if job["work"] == "encode" else transformers.AutoModelForCausalLM
model = kind.from_pretrained(job["model"], dtype=getattr(torch, job["precision"])).eval()


@torch.inference_mode()
def once(tokens):
    ids = torch.tensor(tokens).view(job["batch"], job["tokens"])
    if job["work"] == "encode":
        model(input_ids=ids)
    else:
        model(input_ids=ids, logits_to_keep=1, use_cache=False)


def ran():
    versions = f"PyTorch {torch.__version__}, transformers {transformers.__version__}"
    return f"{versions}, {job['precision']}, {torch.backends.cpu.get_cpu_capability()}"


slot.run(job, model.config.vocab_size, once, ran)
