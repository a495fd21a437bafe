/** Names that the simulator, kwok's stages and people share. Everything simulated carries the first one. */

/** Label (`true`) of every simulated Node; the annotation of the same name says so in words. */
export const simulatedNode = "simulator.kllama.ai/node";

/** Pod annotation (`true`): all claims are prepared. kwok's stages make a pod with claims Running only then. */
export const preparedAnnotation = "simulator.kllama.ai/prepared";

/** Pod annotation, on a pod or its template: preparation fails, with the value as message. */
export const failPrepareAnnotation = "simulator.kllama.ai/fail-prepare";

/** Node annotation: JSON of the devices that are lost, `{"gpu-3": {"how": "taint", "since": "…"}}`. */
export const lostDevicesAnnotation = "simulator.kllama.ai/lost-devices";

/** Label (`true`) of a Node that was made unreachable: kwok's stages must leave it alone. */
export const lostNodeLabel = "simulator.kllama.ai/lost";
