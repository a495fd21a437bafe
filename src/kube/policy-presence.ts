import { isNotFound, type KubeClient } from "./client.ts";
import { resourcePath } from "./paths.ts";

/** The policy that keeps all other accounts from allocating. No dry run of ours can ask whether it stands: ours all pass. */
const account = "account.scheduling.kllama.ai";

/**
 * Are the policy and its binding there, and does the binding deny? Somebody may have deleted them.
 * @returns what is wrong, undefined when they are as they have to be
 */
export async function accountPolicyFault(client: KubeClient): Promise<string | undefined> {
  const [policy, binding] = await Promise.all([
    read(client, "validatingadmissionpolicies"),
    read(client, "validatingadmissionpolicybindings"),
  ]);
  if (policy === undefined) return `policy ${account} is gone, so that any account may allocate devices: ${remedy}`;
  if (binding?.spec.validationActions?.includes("Deny") === true) return undefined;
  return `no binding ${account} has its policy deny, so that any account may allocate devices: ${remedy}`;
}

const remedy = "apply deploy/policies.yaml";

interface Binding {
  spec: { validationActions?: readonly string[] };
}

async function read(client: KubeClient, resource: string): Promise<Binding | undefined> {
  const path = resourcePath({ group: "admissionregistration.k8s.io", version: "v1", resource, name: account });
  return client.request<Binding>("GET", path).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
}
