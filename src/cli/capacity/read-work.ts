import type { WorkAsked } from "../../extender/capacity-desk.ts";
import { readValue, type SourceObject } from "../../kube/documents.ts";
import { assembleInput } from "../plan/input.ts";
import { questionsOf } from "./questions.ts";

/** Whoever asks a planner that has other work to do asks about a little at a time. */
const maxObjects = 64;
const maxReplicas = 1024;
const maxPods = 1024;
const maxQuestions = 16;
/** No object of Kubernetes nests as deep, and readers of it call themselves. */
const maxDepth = 64;

const kindsOfTheCluster = new Set([
  "Node",
  "ResourceSlice",
  "DeviceTaintRule",
  "DeviceClass",
  "ClusterTopology",
  "PodGroup",
]);

/** What a request asks about: one object or a List, as for `kubectl apply`. */
export function readWork(body: unknown): WorkAsked {
  if (isDeeper(body, maxDepth)) {
    return { questions: [], answers: [], problems: [`the request nests deeper than ${maxDepth} levels`] };
  }
  const { objects, problems } = readValue("the request", body);
  const faults = [...problems.map(({ reason }) => reason), ...objects.flatMap(({ object }) => faultOf(object) ?? [])];
  if (objects.length > maxObjects) {
    faults.push(`${objects.length} objects; at most ${maxObjects} can be asked about at a time`);
  }
  if (faults.length > 0) return { questions: [], answers: [], problems: faults };
  const input = assembleInput([{ objects, planned: true }], []);
  const { questions, answers, notes } = questionsOf(input);
  const { length } = input.state.pods;
  const found = [...input.problems.map(({ reason }) => reason), ...notes];
  if (length > maxPods) found.push(`${length} pods; at most ${maxPods} can be asked about at a time`);
  if (questions.length > maxQuestions) {
    found.push(`${questions.length} things that are placed by themselves; at most ${maxQuestions} can be asked about`);
  }
  return { questions, answers, problems: found };
}

/** What would be too much to even look at. */
function faultOf(object: SourceObject["object"]): string | undefined {
  const { kind, metadata } = object;
  if (kindsOfTheCluster.has(kind)) return `${kind} ${metadata.name}: the cluster is the planner's own; leave it out`;
  const replicas = (object as { spec?: { replicas?: unknown } }).spec?.replicas;
  if (typeof replicas !== "number" || replicas <= maxReplicas) return undefined;
  return `${kind} ${metadata.name}: spec.replicas is ${replicas}; at most ${maxReplicas} can be asked about at a time`;
}

function isDeeper(value: unknown, depth: number): boolean {
  if (typeof value !== "object" || value === null) return false;
  return depth === 0 || Object.values(value).some((inner) => isDeeper(inner, depth - 1));
}
