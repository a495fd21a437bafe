import { isNotFound, type KubeClient } from "./client.ts";
import { resourcePath } from "./paths.ts";

interface Expected {
  /** What might happen without it. */
  danger: string;
  /** It has a variable `managedDrivers`. */
  namesDrivers?: true;
}

const unplannable = "devices may be asked for as extended resources, which cannot be planned";

/** Policies that no dry run of the planner's can try out, as they let the planner through or are about what it never writes. */
const policies: Readonly<Record<string, Expected>> = {
  "account.scheduling.kllama.ai": { danger: "any account may allocate devices", namesDrivers: true },
  "finalizers.scheduling.kllama.ai": { danger: "claims that hold devices may be deleted", namesDrivers: true },
  "slices.scheduling.kllama.ai": { danger: "any account may publish devices that no node has" },
  "extended-resources.scheduling.kllama.ai": { danger: unplannable },
  "device-classes.scheduling.kllama.ai": { danger: unplannable },
};

interface Selectors {
  namespaceSelector?: object;
  objectSelector?: object;
  excludeResourceRules?: readonly unknown[];
}

interface Policy {
  spec: {
    failurePolicy?: string;
    matchConstraints?: Selectors;
    matchConditions?: readonly unknown[];
    variables?: readonly { name: string; expression: string }[];
  };
}

interface Binding {
  spec: { policyName?: string; validationActions?: readonly string[]; matchResources?: Selectors };
}

/**
 * Do the policies that keep others off the planner's claims and devices deny, for all objects and for all of its drivers?
 * Somebody may have deleted or narrowed them, or have told the planner of a driver and not the policies.
 * @returns what is wrong with the first of them, undefined when all are as they have to be
 */
export async function policyFault(client: KubeClient, managedDrivers: readonly string[]): Promise<string | undefined> {
  const faults = await Promise.all(
    Object.entries(policies).map(async ([name, { danger, namesDrivers }]) => {
      const [policy, binding] = await Promise.all([
        read<Policy>(client, "validatingadmissionpolicies", name),
        read<Binding>(client, "validatingadmissionpolicybindings", name),
      ]);
      const fault = faultOf(policy, namesDrivers ? managedDrivers : []) ?? bindingFault(binding, name);
      return fault && `policy ${name} ${fault}, so that ${danger}: apply deploy/policies.yaml`;
    }),
  );
  return faults.find((fault) => fault !== undefined);
}

function faultOf(policy: Policy | undefined, managedDrivers: readonly string[]): string | undefined {
  if (policy === undefined) return "is gone";
  const { failurePolicy, matchConstraints, matchConditions = [], variables = [] } = policy.spec;
  if (failurePolicy === "Ignore") return "has failurePolicy Ignore";
  if (matchConditions.length > 0 || isNarrowed(matchConstraints)) return "is narrowed to some objects";
  const named = variables.find(({ name }) => name === "managedDrivers")?.expression ?? "";
  const missing = managedDrivers.filter(
    (driver) => ![`'${driver}'`, `"${driver}"`].some((text) => named.includes(text)),
  );
  return missing.length === 0 ? undefined : `does not name ${missing.join(", ")} in its variable managedDrivers`;
}

function bindingFault(binding: Binding | undefined, name: string): string | undefined {
  if (binding === undefined || binding.spec.policyName !== name) return "has no binding of its name";
  if (binding.spec.validationActions?.includes("Deny") !== true) return "has a binding that does not deny";
  return isNarrowed(binding.spec.matchResources) ? "has a binding that is narrowed to some objects" : undefined;
}

/** The API server fills in empty selectors, which leave nothing out. */
function isNarrowed({ namespaceSelector, objectSelector, excludeResourceRules }: Selectors = {}): boolean {
  const selects = (selector: object | undefined): boolean => Object.keys(selector ?? {}).length > 0;
  return selects(namespaceSelector) || selects(objectSelector) || (excludeResourceRules ?? []).length > 0;
}

async function read<T>(client: KubeClient, resource: string, name: string): Promise<T | undefined> {
  const path = resourcePath({ group: "admissionregistration.k8s.io", version: "v1", resource, name });
  return client.request<T>("GET", path).catch((error: unknown) => {
    if (isNotFound(error)) return undefined;
    throw error;
  });
}
