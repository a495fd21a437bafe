import type { Gang } from "../../api/gang.ts";
import type { Pod } from "../../api/kubernetes.ts";
import { gangGate, gangLabel, schedulingGroup, version } from "../../api/names.ts";
import { isNotFound, type KubeClient } from "../../kube/client.ts";
import { resourcePath } from "../../kube/paths.ts";

/**
 * Lets one pod go that kllama's gate holds for a Gang which does not exist: gate and gang label go in one write, so that
 * it is no member any more and is scheduled alone. Throws an error that says why a pod cannot be let go.
 * @returns what was done, for people.
 */
export async function releasePod(client: KubeClient, namespace: string, name: string): Promise<string> {
  const path = resourcePath({ group: "", version: "v1", resource: "pods", namespace, name });
  const pod = await found(client.request<Pod>("GET", path));
  if (pod === undefined) throw new Error(`pod ${namespace}/${name} does not exist; name its namespace with -n`);
  const refusal = refusalOf(pod);
  if (refusal !== undefined) throw new Error(`pod ${namespace}/${name} ${refusal}`);
  const label = pod.metadata.labels?.[gangLabel];
  const gang = label === undefined ? undefined : await gangOf(client, namespace, label);
  if (gang !== undefined) throw new Error(memberText(pod, gang));
  const { uid, resourceVersion } = pod.metadata;
  await client.request("PATCH", path, {
    body: {
      metadata: { uid, resourceVersion, ...(label === undefined ? {} : { labels: { [gangLabel]: null } }) },
      spec: { schedulingGates: [{ $patch: "delete", name: gangGate }] },
    },
    contentType: "application/strategic-merge-patch+json",
  });
  return doneText(pod, label);
}

async function found<T>(request: Promise<T>): Promise<T | undefined> {
  try {
    return await request;
  } catch (error) {
    if (!isNotFound(error)) throw error;
    return undefined;
  }
}

function refusalOf({ metadata, spec }: Pod): string | undefined {
  if (metadata.deletionTimestamp !== undefined) return "is being deleted";
  if (spec.nodeName !== undefined) return `is on node ${spec.nodeName} already; nothing holds it`;
  const gates = (spec.schedulingGates ?? []).map((gate) => gate.name);
  if (gates.includes(gangGate)) return undefined;
  return gates.length === 0
    ? "has no scheduling gate; kllama does not hold it (kubectl describe pod tells what does)"
    : `is held by ${gates.join(", ")}, which kllama did not put there`;
}

/** A missing kind is a missing Gang: kllama was taken out. */
function gangOf(client: KubeClient, namespace: string, name: string): Promise<Gang | undefined> {
  const location = { group: schedulingGroup, version, resource: "gangs", namespace, name };
  return found(client.request<Gang>("GET", resourcePath(location)));
}

function memberText({ metadata }: Pod, gang: Gang): string {
  const { phase = "Pending", explanation } = gang.status ?? {};
  const why = explanation === undefined ? phase : `${phase}: ${explanation}`;
  return (
    `pod ${metadata.namespace}/${metadata.name} is a member of Gang ${gang.metadata.name} (${why}) and goes with it, ` +
    `all or nothing; delete the Gang, or remove the pod's label ${gangLabel}, to let it go alone`
  );
}

function doneText({ metadata, spec }: Pod, label: string | undefined): string {
  const others = (spec.schedulingGates ?? []).map((gate) => gate.name).filter((gate) => gate !== gangGate);
  const lines = [
    `pod ${metadata.namespace}/${metadata.name} is let go` +
      (label === undefined ? "" : `: it is no member of Gang ${label} any more, and is scheduled alone`),
  ];
  if (others.length > 0) lines.push(`it is still held by ${others.join(", ")}`);
  if (metadata.ownerReferences?.some((owner) => owner.controller === true) === true && label !== undefined) {
    lines.push(`pods that its controller creates anew will carry the label ${gangLabel} again: correct the template`);
  }
  return `${lines.join("\n")}\n`;
}
