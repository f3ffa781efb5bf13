"""vocabkit: an adapter between a vision encoder and an LLM, moved to another LLM through their shared vocabulary.

Each name is imported from its module, so that what is not needed is not loaded: `from vocabkit.shared.align import align`.
docs/python.md lists the public names and shows them in use; whatever else can be imported may change at any time.

- Tokenizers: `catalog`, `readers`, `vocabulary`.
- What they share: `alignment`, `shared`, `ranking`, `verification`; why, and how well: `overlap`, `explanation`,
  `audit`, `index_maps`.
- Adapters (from here on torch is needed): `embeddings`, `adapter`, `adapter_config`, `published`, `mixing`.
- Moving one: `targets`, `transfer`, `transferred`, `scaling`, `proof`, `fold`, `export`, `distillation`.
- Using one: `data`, `vision`, `features`, `prompts`, `llms`, `lvlm`, `training`, `evaluation`, `inference`,
  `interpretation`.
- `errors`: the one exception type. `environment`: what there is to compute with. `report`: results as text and JSON.
"""
