import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Writable } from "node:stream";
import type { PlanOutput } from "../../../../src/api/placement.ts";
import { runCli } from "../../../../src/cli/run.ts";

interface Ran {
  code: number;
  stdout: string;
  stderr: string;
}

/**
 * Runs `kllama plan`, or another command, on files with these contents; `FOLDER` in arguments is where they are, and is
 * cut from stderr.
 */
export async function planFiles(
  files: Record<string, string>,
  args = "-f FOLDER -o json",
  command = "plan",
): Promise<Ran> {
  const folder = mkdtempSync(join(tmpdir(), "kllama-plan-"));
  const out: string[] = [];
  const err: string[] = [];
  const sink = (to: string[]) =>
    new Writable({
      write(chunk, _encoding, done) {
        to.push(String(chunk));
        done();
      },
    });
  try {
    for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), text);
    const words = args.replaceAll("FOLDER", folder).split(" ");
    const code = await runCli([command, ...words], { stdout: sink(out), stderr: sink(err), env: {} });
    return { code, stdout: out.join(""), stderr: err.join("").replaceAll(`${folder}/`, "") };
  } finally {
    rmSync(folder, { recursive: true });
  }
}

export interface Planned extends PlanOutput {
  code: number;
  stderr: string;
}

/** The same, with the JSON read. */
export async function plan(files: Record<string, string> | string, args?: string): Promise<Planned> {
  const { code, stdout, stderr } = await planFiles(typeof files === "string" ? { "input.yaml": files } : files, args);
  return { ...(JSON.parse(stdout) as PlanOutput), code, stderr };
}

/** Gang or pod → nodes of its pods, in order; rejected ones → the reason. */
export function places({ placements, rejections }: PlanOutput): Record<string, string> {
  return Object.fromEntries([
    ...placements.map(({ gang, pods }) => [gang, pods.map(({ node }) => node).join(" ")]),
    ...rejections.map(({ gang, reason }) => [gang, reason]),
  ]);
}

// ---- Objects, one YAML document each; `---` comes before every one --------------------------------------------------

const json = (value: unknown): string => `---\n${JSON.stringify(value)}\n`;

export interface NodeOptions {
  gpus?: number;
  labels?: Record<string, string>;
  spec?: object;
  status?: object;
}

/** A node with GPUs of gpu.kllama.ai in a pool of its own. */
export function node(name: string, { gpus = 4, labels = {}, spec = {}, status = {} }: NodeOptions = {}): string {
  const attributes = { "gpu.kllama.ai/type": { string: "gpu" } };
  const devices = Array.from({ length: gpus }, (_, i) => ({ name: `gpu-${i}`, attributes }));
  const allocatable = { cpu: 64, memory: "256Gi", pods: 100 };
  return [
    json({ apiVersion: "v1", kind: "Node", metadata: { name, labels }, spec, status: { allocatable, ...status } }),
    json({
      apiVersion: "resource.k8s.io/v1",
      kind: "ResourceSlice",
      metadata: { name },
      spec: {
        driver: "gpu.kllama.ai",
        nodeName: name,
        pool: { name, generation: 1, resourceSliceCount: 1 },
        devices,
      },
    }),
  ].join("");
}

export function rack(name: string, nodes: number, gpus = 4): string {
  const labels = { "topology.kubernetes.io/rack": name };
  return Array.from({ length: nodes }, (_, i) => node(`${name}-${i}`, { gpus, labels })).join("");
}

export function template(name: string, count: number, namespace?: string): string {
  const requests = [{ name: "gpus", exactly: { deviceClassName: "gpu.kllama.ai", count } }];
  const metadata = { name, ...(namespace && { namespace }) };
  const spec = { spec: { devices: { requests } } };
  return json({ apiVersion: "resource.k8s.io/v1", kind: "ResourceClaimTemplate", metadata, spec });
}

export interface PodOptions {
  gang?: string;
  labels?: Record<string, string>;
  metadata?: object;
  spec?: object;
  status?: object;
  /** Name of the claim template; undefined: no claim. */
  template?: string | undefined;
}

export function pod(name: string, options: PodOptions = {}): string {
  const { gang, labels = {}, metadata = {}, spec = {}, status } = options;
  const claims = options.template && {
    resourceClaims: [{ name: "gpus", resourceClaimTemplateName: options.template }],
  };
  return json({
    apiVersion: "v1",
    kind: "Pod",
    metadata: { name, labels: { ...(gang && { "scheduling.kllama.ai/gang": gang }), ...labels }, ...metadata },
    spec: { containers: [{ name: "main", resources: { requests: { cpu: "1" } } }], ...claims, ...spec },
    ...(status && { status }),
  });
}

export function gang(name: string, spec: object, metadata: object = {}): string {
  return json({ apiVersion: "scheduling.kllama.ai/v1alpha1", kind: "Gang", metadata: { name, ...metadata }, spec });
}

/** A Gang of one pod set and its pods, with a claim each from `template`. */
export function gangOf(name: string, pods: number, from: string, spec: object = {}, age = ""): string {
  const metadata = age === "" ? {} : { creationTimestamp: age };
  const members = Array.from({ length: pods }, (_, i) => pod(`${name}-${i}`, { gang: name, template: from }));
  return [gang(name, { podSets: [{ name: "ranks", count: pods }], ...spec }, metadata), ...members].join("");
}

/** A Gang of one pod that runs on a node, with the first so many of its GPUs. */
export function runningGang(name: string, on: string, { gpus = 4, namespace = "default", priority = 0 } = {}): string {
  const devices = Array.from({ length: gpus }, (_, gpu) => ({
    request: "gpus",
    driver: "gpu.kllama.ai",
    pool: on,
    device: `gpu-${gpu}`,
  }));
  const claims = [{ claim: `${name}-gpus`, reference: "gpus", devices }];
  const placement = { pods: [{ pod: `${name}-0`, podSet: "ranks", index: 0, node: on, claims }] };
  const object = json({
    apiVersion: "scheduling.kllama.ai/v1alpha1",
    kind: "Gang",
    metadata: { name, namespace },
    spec: { podSets: [{ name: "ranks", count: 1 }] },
    status: { phase: "Scheduled", placement },
  });
  return object + pod(`${name}-0`, { gang: name, metadata: { namespace }, spec: { nodeName: on, priority } });
}

export { json };
