import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { extenderEntries } from "../../../src/api/extender-configuration.ts";
import {
  bindMarker,
  claimFinalizer,
  driverName,
  gangGate,
  gangLabel,
  injectLabel,
  memberMarker,
} from "../../../src/api/names.ts";
import { readManifests } from "../../../src/kube/manifests.ts";

type Policy = { kind: string; metadata: { name: string }; spec: Record<string, unknown> };

const policies = parseAllDocuments(readFileSync("deploy/policies.yaml", "utf8")).map(
  (document) => document.toJS() as Policy,
);

describe("deploy/policies.yaml", () => {
  test("speaks of the same names as the code", () => {
    const text = JSON.stringify(policies);
    for (const name of [gangLabel, gangGate, claimFinalizer]) expect(text).toContain(name);
    // In a JSON pointer a slash is written ~1 (RFC 6901).
    for (const marker of [bindMarker, memberMarker]) expect(text).toContain(`/requests/${marker.replace("/", "~1")}`);
    expect(text).toContain(`{"matchLabels":{"${injectLabel}":"enabled"}}`);
    expect(text).toContain(`"managedDrivers","expression":"['${driverName}']"`);
  });

  test("every policy is bound under its own name, and fails closed", () => {
    const bound = policies.filter(({ kind }) => kind.endsWith("Binding")).map(({ spec }) => spec["policyName"]);
    const own = policies.filter(({ kind }) => kind.endsWith("Policy"));
    expect(bound).toEqual(own.map(({ metadata }) => metadata.name));
    // But for the fence: where its kind is not installed it must not block every claim of the cluster.
    const closed = own.filter(({ metadata }) => metadata.name !== "term.scheduling.kllama.ai");
    expect(closed.map(({ spec }) => spec["failurePolicy"])).toEqual(closed.map(() => "Fail"));
  });
});

test("what is installed on a cluster of real nodes has no account that may speak for every kubelet", async () => {
  const installed = await readManifests(["deploy"]);
  const kinds = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"];
  const accounts = installed.filter(({ object }) => kinds.includes(object.kind));
  expect(accounts.map(({ object }) => object.metadata.name)).toContain("kllama-planner");
  const text = JSON.stringify(accounts.map(({ object }) => object));
  for (const right of ["kllama-simulator", "arbitrary-node", "nodes/status"]) expect(text).not.toContain(right);
});

test("the two extender entries: a short limit and a long one, each with its own marker", () => {
  const tls = { caFile: "/ca", certFile: "/cert", keyFile: "/key" };
  const entries = extenderEntries({ url: "https://127.0.0.1:1", tls });
  expect(entries.map(({ httpTimeout }) => httpTimeout)).toEqual(["200ms", "120s"]);
  expect(entries.map(({ managedResources }) => managedResources)).toEqual([
    [{ name: memberMarker, ignoredByScheduler: true }],
    [{ name: bindMarker, ignoredByScheduler: true }],
  ]);
  expect(entries.map(({ bindVerb, filterVerb }) => [bindVerb, filterVerb])).toEqual([
    [undefined, "filter"],
    ["bind", undefined],
  ]);
});

test("deploy/README.md shows the generated extender entries", () => {
  const generated = readFileSync("deploy/kube-scheduler/extenders.yaml", "utf8");
  expect(readFileSync("deploy/README.md", "utf8")).toContain(generated.slice(generated.indexOf("extenders:")));
});
