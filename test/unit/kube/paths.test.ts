import { expect, it } from "vitest";
import { resourcePath } from "../../../src/kube/paths.ts";

const pods = { group: "", version: "v1", resource: "pods" };

it.each([
  [pods, "/api/v1/pods"],
  [{ ...pods, namespace: "a" }, "/api/v1/namespaces/a/pods"],
  [{ ...pods, namespace: "a", name: "p", subresource: "status" }, "/api/v1/namespaces/a/pods/p/status"],
  [
    { group: "resource.k8s.io", version: "v1", resource: "resourceslices", name: "x" },
    "/apis/resource.k8s.io/v1/resourceslices/x",
  ],
  [{ ...pods, namespace: "a", name: "../b?c=d/e" }, "/api/v1/namespaces/a/pods/..%2Fb%3Fc%3Dd%2Fe"],
])("%j is %s", (location, path) => {
  expect(resourcePath(location)).toBe(path);
});

it.each(["", ".", ".."])("refuses %j as a name, which would name something else", (name) => {
  expect(() => resourcePath({ ...pods, namespace: "a", name })).toThrow(/is not a name/);
});
