import { onTestFinished } from "vitest";
import type { Scene } from "./scene.ts";

/**
 * Makes a DeviceTaintRule, and waits until the planner counts so many free GPUs.
 * @param version of resource.k8s.io, as the API server has it
 * @returns what takes the rule away; the end of the test does, too
 */
export async function taintByRule(
  { stack, untilMetric }: Scene,
  version: string,
  spec: object,
  left: number,
): Promise<() => Promise<void>> {
  const rules = `/apis/resource.k8s.io/${version}/devicetaintrules`;
  const gone = async () => void (await stack.admin.request("DELETE", `${rules}/drain`).catch(() => undefined));
  onTestFinished(gone);
  const kind = { apiVersion: `resource.k8s.io/${version}`, kind: "DeviceTaintRule" };
  await stack.admin.request("POST", rules, { body: { ...kind, metadata: { name: "drain" }, spec } });
  await untilMetric("kllama_free_devices", left, 'device_class="gpu.kllama.ai"');
  return gone;
}
