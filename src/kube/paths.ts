/** Which object or collection of the API a path names; `group` is empty for the core group. */
export interface ResourceLocation {
  group: string;
  version: string;
  resource: string;
  namespace?: string | undefined;
  name?: string | undefined;
  subresource?: string | undefined;
}

/**
 * The API server's path of a collection (no `name`), an object, or its subresource. Segments are percent-encoded,
 * so a name taken from a request can never leave its place in the path.
 */
export function resourcePath(location: ResourceLocation): string {
  const { group, version, resource, namespace, name, subresource } = location;
  const root = group === "" ? ["api", version] : ["apis", group, version];
  const scope = namespace === undefined ? [] : ["namespaces", namespace];
  const object = name === undefined ? [] : [name];
  const part = subresource === undefined || name === undefined ? [] : [subresource];
  return `/${[...root, ...scope, resource, ...object, ...part].map(encodeSegment).join("/")}`;
}

interface Place {
  namespace?: string | undefined;
  name?: string | undefined;
}

/** Path of a pod, or of all pods (of all namespaces). */
export function podPath({ namespace, name }: Place, subresource?: string): string {
  return resourcePath({ group: "", version: "v1", resource: "pods", namespace, name, subresource });
}

/** Path of a ResourceClaim, or of all of them (in all namespaces). */
export function claimPath({ namespace, name }: Place, subresource?: string): string {
  const location = { group: "resource.k8s.io", version: "v1", resource: "resourceclaims" };
  return resourcePath({ ...location, namespace, name, subresource });
}

/** `.` and `..` survive encodeURIComponent and would be resolved away by URL parsers; no Kubernetes name is either. */
function encodeSegment(segment: string): string {
  if (segment === "" || segment === "." || segment === "..") {
    throw new Error(
      `API path: ${JSON.stringify(segment)} is not a name; give the name of a resource, namespace or object`,
    );
  }
  return encodeURIComponent(segment);
}
