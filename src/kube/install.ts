import { fieldManager } from "../api/names.ts";
import { isNotFound, type KubeClient, KubeError } from "./client.ts";
import { eventually } from "./eventually.ts";
import { type Manifest, readManifests } from "./manifests.ts";
import { resourcePath } from "./paths.ts";

export interface InstallOptions {
  /** For each CustomResourceDefinition to be served; default 30,000. */
  timeoutMs?: number;
  signal?: AbortSignal;
}

interface ResourceType {
  plural: string;
  namespaced: boolean;
}

interface CustomResourceDefinition {
  metadata: { name: string };
  spec: {
    group: string;
    scope: "Namespaced" | "Cluster";
    names: { kind: string; plural: string };
    versions: { name: string; served: boolean }[];
  };
  status?: { conditions?: { type: string; status: string; message?: string }[] };
}

/**
 * Applies the objects of YAML files and folders by server-side apply: namespaces first, then CustomResourceDefinitions,
 * waiting until each is served, then the rest in the order given. Applying again changes nothing. Throws an error that
 * names file and object when the API server refuses one. A policy takes effect later: see `waitForPolicies`.
 */
export async function installManifests(
  client: KubeClient,
  paths: readonly string[],
  options: InstallOptions = {},
): Promise<void> {
  const manifests = await readManifests(paths);
  const ofKind = (kind: string) => manifests.filter(({ object }) => object.kind === kind);
  const definitions = ofKind("CustomResourceDefinition");
  const others = manifests.filter(({ object }) => !["Namespace", "CustomResourceDefinition"].includes(object.kind));
  const typeOf = createResourceTypes(client, options);
  for (const manifest of [...ofKind("Namespace"), ...definitions]) await apply(client, manifest, typeOf, options);
  await Promise.all(definitions.map(({ object }) => served(client, object.metadata.name, options)));
  for (const manifest of others) await apply(client, manifest, typeOf, options);
}

type TypeOf = (manifest: Manifest) => Promise<ResourceType>;

async function apply(client: KubeClient, manifest: Manifest, typeOf: TypeOf, options: InstallOptions): Promise<void> {
  const { object, source } = manifest;
  const { plural, namespaced } = await typeOf(manifest);
  const path = resourcePath({
    ...groupVersion(object.apiVersion),
    resource: plural,
    namespace: namespaced ? (object.metadata.namespace ?? "default") : undefined,
    name: object.metadata.name,
  });
  try {
    await client.request("PATCH", path, {
      query: { fieldManager, force: true },
      contentType: "application/apply-patch+yaml",
      body: object,
      ...signalOf(options),
    });
  } catch (error) {
    if (!(error instanceof KubeError)) throw error;
    throw new Error(`${source}: ${object.kind} ${object.metadata.name}: ${error.message}`, { cause: error });
  }
}

/** Asks the API server how a kind is called in paths, once per group and version. */
function createResourceTypes(client: KubeClient, options: InstallOptions): TypeOf {
  const known = new Map<string, Promise<{ resources: { name: string; kind: string; namespaced: boolean }[] }>>();
  return async ({ object, source }) => {
    const { group, version } = groupVersion(object.apiVersion);
    const path = group === "" ? `/api/${version}` : `/apis/${group}/${version}`;
    const list = known.get(path) ?? client.request("GET", path, signalOf(options));
    known.set(path, list);
    const { resources } = await list.catch((error: unknown) => {
      if (!isNotFound(error)) throw error;
      throw new Error(
        `${source}: the API server has no ${object.apiVersion}; install what serves it first; kllama itself needs Kubernetes 1.36`,
      );
    });
    const found = resources.find(({ kind, name }) => kind === object.kind && !name.includes("/"));
    if (found === undefined) {
      throw new Error(`${source}: the API server has no kind ${object.kind} in ${object.apiVersion}; correct the file`);
    }
    return { plural: found.name, namespaced: found.namespaced };
  };
}

/** Established is announced; the paths answer a moment later, which is not. */
async function served(client: KubeClient, name: string, options: InstallOptions): Promise<void> {
  const { timeoutMs = 30_000, signal } = options;
  const { spec } = await established(client, name, timeoutMs, signal);
  const probes = spec.versions
    .filter((version) => version.served)
    .map((version) => resourcePath({ group: spec.group, version: version.name, resource: spec.names.plural }));
  await eventually(
    `CustomResourceDefinition ${name}`,
    async () => {
      for (const path of probes) {
        try {
          await client.request("GET", path, { query: { limit: 1 }, ...signalOf(options) });
        } catch (error) {
          if (!isNotFound(error)) throw error;
          return `${path} is not served yet`;
        }
      }
      return undefined;
    },
    { timeoutMs, signal },
  );
}

async function established(
  client: KubeClient,
  name: string,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<CustomResourceDefinition> {
  const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
  const limit = AbortSignal.timeout(timeoutMs);
  const query = { watch: true, fieldSelector: `metadata.name=${name}` };
  try {
    for await (const line of client.lines(path, { query, signal: signal ? AbortSignal.any([signal, limit]) : limit })) {
      const { object } = JSON.parse(line) as { object: CustomResourceDefinition };
      const condition = (type: string) => object.status?.conditions?.find((entry) => entry.type === type);
      if (condition("Established")?.status === "True") return object;
      const names = condition("NamesAccepted");
      if (names?.status === "False") throw new Error(`CustomResourceDefinition ${name}: ${names.message}`);
    }
  } catch (error) {
    if (!limit.aborted) throw error;
  }
  throw new Error(`CustomResourceDefinition ${name}: not established within ${timeoutMs / 1000} s`);
}

function groupVersion(apiVersion: string): { group: string; version: string } {
  const [group, version] = apiVersion.split("/");
  return version === undefined ? { group: "", version: apiVersion } : { group: group!, version };
}

function signalOf({ signal }: InstallOptions): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal };
}
