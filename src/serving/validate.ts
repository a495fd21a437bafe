import type { KubernetesObject } from "../api/kubernetes.ts";
import { type LLMCluster, type LLMClusterStatus, llmClusterSpec } from "../api/llm-cluster.ts";

/** A StatefulSet's pods carry the label `controller-revision-hash: NAME-HASH`: 63 characters less a dash and ten of hash. */
const maxNameLength = 52;

export type ReadCluster = { cluster: LLMCluster } | { problems: string[] };

/**
 * Reads an LLMCluster as the API server sent it: fills defaults and checks what its schema cannot (or what an object
 * stored under an older schema may break). Each problem names the field and the remedy.
 */
export function readCluster(raw: KubernetesObject): ReadCluster {
  const parsed = llmClusterSpec.safeParse((raw as { spec?: unknown }).spec ?? {});
  if (!parsed.success) {
    return {
      problems: parsed.error.issues.map((issue) => `${["spec", ...issue.path].join(".")}: ${issue.message}`),
    };
  }
  const status = (raw as { status?: LLMClusterStatus }).status;
  const cluster: LLMCluster = { ...raw, spec: parsed.data, ...(status === undefined ? {} : { status }) };
  const problems = [...nameProblems(raw.metadata.name), ...shapeProblems(cluster), ...envProblems(cluster)];
  return problems.length === 0 ? { cluster } : { problems };
}

function nameProblems(name: string): string[] {
  const problems: string[] = [];
  if (name.length > maxNameLength) {
    problems.push(
      `metadata.name: ${name.length} characters, but the pods of its StatefulSet allow at most ${maxNameLength}; create it again under a shorter name`,
    );
  }
  if (!/^[a-z]([-a-z0-9]*[a-z0-9])?$/.test(name)) {
    problems.push(
      "metadata.name: its Services need a name of lower-case letters, digits and dashes that starts with a letter; create it again under such a name",
    );
  }
  return problems;
}

function shapeProblems({ spec }: LLMCluster): string[] {
  const gpus = spec.replicas * spec.gpusPerPod;
  if (gpus === spec.tensorParallelSize) return [];
  return [
    `spec.tensorParallelSize: ${spec.tensorParallelSize}, but replicas × gpusPerPod = ${spec.replicas} × ${spec.gpusPerPod} = ${gpus}; make them equal`,
  ];
}

function envProblems({ spec }: LLMCluster): string[] {
  const names = (spec.env ?? []).map((variable) => variable.name);
  const repeated = new Set(names.filter((name, index) => names.indexOf(name) !== index));
  return [...repeated].map((name) => `spec.env: ${name} is set more than once; keep one entry`);
}
