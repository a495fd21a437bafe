import { describe, expect, test } from "vitest";
import { type KubeClient, KubeError } from "../../../src/kube/client.ts";
import { createReflector } from "../../../src/kube/reflector.ts";
import { deviceTaintRules, findServed } from "../../../src/kube/served.ts";
import { createFakeCollection, type FakeObject } from "../../support/fake-collection.ts";
import { createVirtualTiming } from "../../support/virtual-timing.ts";

const notFound = () => new KubeError("the server could not find the requested resource", { status: 404, reason: "" });

/** An API server with these resources in each version of the group; what is no list is thrown. */
function serving(versions: Record<string, readonly string[] | KubeError>) {
  const asked: string[] = [];
  const request = async (_method: string, path: string) => {
    asked.push(path);
    const found = versions[path.split("/")[3]!] ?? notFound();
    if (found instanceof KubeError) throw found;
    return { kind: "APIResourceList", resources: found.map((name) => ({ name })) };
  };
  return { client: { request } as unknown as KubeClient, asked };
}

describe("where a kind is that not every API server has", () => {
  const rules = ["deviceclasses", "devicetaintrules", "devicetaintrules/status"];

  test.for([
    ["1.37", { v1: rules, v1beta2: rules }, "v1"],
    ["1.36 with the feature", { v1: ["deviceclasses"], v1beta2: rules }, "v1beta2"],
    ["1.36", { v1: ["deviceclasses"] }, undefined],
    ["1.36 with the version, of which it lacks the kind", { v1: [], v1beta2: ["deviceclasses"] }, undefined],
    ["a version that nobody reads", { v1: [], v1alpha3: rules }, undefined],
  ] as const)("%s", async ([, versions, version]) => {
    const { client, asked } = serving(versions);
    const location = version && { group: "resource.k8s.io", version, resource: "devicetaintrules" };
    expect(await findServed(client, deviceTaintRules)).toEqual(location);
    expect(asked).toEqual(
      ["/apis/resource.k8s.io/v1", "/apis/resource.k8s.io/v1beta2"].slice(0, version === "v1" ? 1 : 2),
    );
  });

  test("a server that cannot say now is no server without it", async () => {
    const { client } = serving({ v1: new KubeError("starting", { status: 503, reason: "ServiceUnavailable" }) });
    await expect(findServed(client, deviceTaintRules)).rejects.toThrow("starting");
    const answer = { request: async () => ({ items: [] }) } as unknown as KubeClient;
    await expect(findServed(answer, deviceTaintRules)).rejects.toThrow("not a list of resources");
  });
});

describe("the watch of such a kind", () => {
  /** `serve` tells where the server has the collection from now on. */
  function setup() {
    const timing = createVirtualTiming();
    const collection = createFakeCollection(timing, { watchList: true });
    const paths: string[] = [];
    const errors: string[] = [];
    const news: string[] = [];
    let path: string | Error | undefined;
    let looks = 0;
    const reflector = createReflector<FakeObject, string>({
      client: {
        ...collection.client,
        lines: (asked, options) => {
          paths.push(asked);
          return collection.client.lines(asked, options);
        },
      },
      async path() {
        looks += 1;
        if (path instanceof Error) throw path;
        return path;
      },
      name: "things",
      project: ({ data }) => data,
      onChange: (change) => news.push(change.type === "replaced" ? "replaced" : `${change.type} ${change.key}`),
      onError: (error) => errors.push(error.message),
      timing,
    });
    const serve = (where: string | Error | undefined): void => {
      path = where;
    };
    return { timing, collection, reflector, paths, errors, news, serve, looks: () => looks };
  }

  test("is synced, empty and no error while there is none, and looks once a minute", async () => {
    const { timing, reflector, paths, errors, news, looks } = setup();
    reflector.start();
    await timing.advance(10);
    expect([reflector.synced, reflector.resourceVersion, news]).toEqual([true, undefined, ["replaced"]]);
    await timing.advance(600_000);
    expect([paths, errors, reflector.items.size]).toEqual([[], [], 0]);
    expect(looks()).toBeGreaterThanOrEqual(10);
    expect(looks()).toBeLessThanOrEqual(11);
    expect(reflector.staleMs()).toBeLessThan(61_000);
    const listed = reflector.refresh();
    await timing.advance(10);
    await listed;
    await reflector.stop();
    expect(reflector.synced).toBe(false);
  });

  test("begins within a minute after the server has it, at once when asked to list anew", async () => {
    for (const asked of [true, false]) {
      const { timing, collection, reflector, paths, news, serve } = setup();
      collection.store("a", "1");
      reflector.start();
      await timing.advance(10);
      serve("/v1/things");
      const listed = asked ? reflector.refresh() : undefined;
      await timing.advance(asked ? 10 : 61_000);
      await listed;
      expect(news).toEqual(["replaced", "added ns/a", "replaced"]);
      expect(paths).toEqual(["/v1/things"]);
      await reflector.stop();
    }
  });

  test("follows to another version, and lets go of everything when the server has it no more", async () => {
    const { timing, collection, reflector, paths, news, errors, serve } = setup();
    collection.store("a", "1");
    serve("/v1beta2/things");
    reflector.start();
    await timing.advance(10_000);
    news.length = 0;
    serve("/v1/things");
    collection.closeStreams();
    collection.refuseNext(notFound());
    await timing.advance(3_000);
    // Watched where it was, refused, listed where it is: nothing has changed.
    expect(paths).toEqual(["/v1beta2/things", "/v1beta2/things", "/v1/things"]);
    expect([news, errors.length, reflector.items.get("ns/a")]).toEqual([["replaced"], 1, "1"]);
    serve(undefined);
    collection.closeStreams();
    collection.refuseNext(notFound());
    await timing.advance(3_000);
    expect([news, reflector.items.size, reflector.synced]).toEqual([["replaced", "deleted ns/a", "replaced"], 0, true]);
    await reflector.stop();
  });

  test("keeps what it knows while the server cannot say where it is", async () => {
    const { timing, collection, reflector, news, errors, serve } = setup();
    collection.store("a", "1");
    serve("/v1/things");
    reflector.start();
    await timing.advance(10_000);
    serve(new Error("unreachable"));
    const listed = reflector.refresh();
    await timing.advance(20_000);
    expect([reflector.items.get("ns/a"), new Set(errors)]).toEqual(["1", new Set(["unreachable"])]);
    serve("/v1/things");
    await timing.advance(30_000);
    await listed;
    expect(news).toEqual(["added ns/a", "replaced", "replaced"]);
    await reflector.stop();
  });
});
