import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import type {
  AllocationResult,
  Device,
  DeviceClass,
  DeviceTaintRule,
  Node,
  ResourceClaim,
  ResourceSlice,
} from "../../../src/api/kubernetes.ts";
import { buildGoProgram } from "../build.ts";

/** What is to be allocated on one node, in a cluster where `allocated` hold devices already. */
export interface AllocationQuestion {
  node: Node;
  slices: ResourceSlice[];
  rules: DeviceTaintRule[];
  classes: DeviceClass[];
  claims: ResourceClaim[];
  allocated: ResourceClaim[];
  timeoutMs: number;
}

interface SelectorQuestion {
  expression: string;
  driver: string;
  device: Device;
}

export interface Answer {
  /** Of an allocation: allocated, refused, error, timeout. Of a selector: true, false, refused, error. */
  verdict: string;
  message?: string;
  /** In the order of the claims. */
  allocations?: AllocationResult[];
  /** Of an allocation with rules: the slices with their taints. */
  slices?: ResourceSlice[];
  /** What the evaluation of a selector cost, in CEL's units. */
  cost?: number;
}

/** Path of the judge's program, built once. */
export function buildJudge(): Promise<string> {
  return buildGoProgram(
    fileURLToPath(new URL(".", import.meta.url)),
    "Kubernetes' own allocator cannot judge kllama's",
  );
}

/** Upstream's answers, in the order of the questions. */
export function ask(program: string, questions: readonly (AllocationQuestion | SelectorQuestion)[]): Answer[] {
  const input = questions.map((question) => JSON.stringify(question)).join("\n");
  const { status, stdout, stderr } = spawnSync(program, { input, encoding: "utf8", maxBuffer: 2 ** 30 });
  if (status !== 0) throw new Error(`the judge ended with code ${status}: ${stderr}`);
  const answers = stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
  if (answers.length !== questions.length)
    throw new Error(`${answers.length} answers to ${questions.length} questions`);
  return answers;
}
