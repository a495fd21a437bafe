import { describe, expect, test } from "vitest";
import type { DeviceConstraint, DeviceRequest, ResourceClaimSpec } from "../../../../src/api/kubernetes.ts";
import { type CompiledClaim, compileClaim, isClaimProblem } from "../../../../src/dra/allocator/claim.ts";
import { isLeftToScheduler } from "../../../../src/dra/allocator/class-drivers.ts";
import { claimSpec, deviceClass, deviceClasses, driver, exactly, partition } from "../../../builders.ts";

const managed = new Set([driver]);
const nvidia = deviceClass("gpu.nvidia.com", 'device.driver == "gpu.nvidia.com"');
const broken = deviceClass("broken", "frobnicate(device)");
const anyDriver = deviceClass("any", 'has(device.attributes["x.example.com"].y)');
const classes = deviceClasses(nvidia, broken, anyDriver);

function compile(spec: ResourceClaimSpec) {
  return compileClaim(spec, classes, managed);
}

function compiled(spec: ResourceClaimSpec): CompiledClaim {
  const claim = compile(spec);
  if (isClaimProblem(claim)) throw new Error(claim.message);
  return claim;
}

describe("a claim compiles", () => {
  test("exactly", () => {
    const { requests } = compiled(claimSpec([exactly("gpus", 4, {}, "true")]));
    expect(requests).toMatchObject([{ name: "gpus", alternatives: [{ name: "gpus", mode: "ExactCount", count: 4 }] }]);
    expect(requests[0]!.alternatives[0]!.selectors.map(({ text }) => text)).toEqual([expect.any(String), "true"]);
  });

  test("with the API server's defaults when they are left out", () => {
    const { requests } = compiled({
      devices: { requests: [{ name: "r", exactly: { deviceClassName: "gpu.kllama.ai" } }] },
    });
    expect(requests[0]!.alternatives[0]).toMatchObject({ mode: "ExactCount", count: 1, tolerations: [] });
  });

  test("firstAvailable, named request/subrequest", () => {
    const { requests } = compiled(claimSpec([firstAvailable("r", ["big", 4], ["small", 2])]));
    expect(requests[0]!.alternatives.map(({ name, count }) => [name, count])).toEqual([
      ["r/big", 4],
      ["r/small", 2],
    ]);
  });

  test("an empty claim", () => {
    expect(compiled({}).requests).toEqual([]);
  });

  test("constraints cover all requests, named ones, or one subrequest", () => {
    const requests = [exactly("a", 1), firstAvailable("b", ["x", 1], ["y", 1])];
    const covers = (constraint: DeviceConstraint) => compiled(claimSpec(requests, [constraint])).constraints[0]!.covers;
    const matchAttribute = "a.example.com/b";
    expect(covers({ matchAttribute })).toEqual([[true], [true, true]]);
    expect(covers({ matchAttribute, requests: ["a"] })).toEqual([[true], [false, false]]);
    expect(covers({ matchAttribute, requests: ["a", "b/y"] })).toEqual([[true], [false, true]]);
  });
});

function firstAvailable(name: string, ...subrequests: [string, number][]): DeviceRequest {
  return {
    name,
    firstAvailable: subrequests.map(([sub, count]) => ({ name: sub, deviceClassName: "gpu.kllama.ai", count })),
  };
}

describe("the shape", () => {
  test("is equal for equal specs and classes, whatever the order of fields and the configuration", () => {
    const one = claimSpec([{ name: "r", exactly: { deviceClassName: "gpu.kllama.ai", count: 2 } }]);
    const two: ResourceClaimSpec = {
      devices: {
        requests: [
          { exactly: { count: 2, allocationMode: "ExactCount", deviceClassName: "gpu.kllama.ai" }, name: "r" },
        ],
        config: [{ opaque: { driver, parameters: { a: 1 } } }],
      },
    };
    expect(compiled(one).shape).toBe(compiled(two).shape);
  });

  test("differs with every field that changes what is chosen", () => {
    const specs = [
      claimSpec([exactly("r", 1)]),
      claimSpec([exactly("q", 1)]),
      claimSpec([exactly("r", 2)]),
      claimSpec([exactly("r", 1, { allocationMode: "All" })]),
      claimSpec([exactly("r", 1, {}, "true")]),
      claimSpec([exactly("r", 1, { deviceClassName: "any" })]),
      claimSpec([exactly("r", 1, { tolerations: [{ operator: "Exists" }] })]),
      claimSpec([exactly("r", 1, { capacity: { requests: { memory: "1Gi" } } })]),
      claimSpec([exactly("r", 1)], [{ matchAttribute: "a.b/c" }]),
      claimSpec([exactly("r", 1)], [{ distinctAttribute: "a.b/c" }]),
      claimSpec([exactly("r", 1)], [{ matchAttribute: "a.b/d" }]),
    ];
    const shapes = specs.map((spec) => compiled(spec).shape);
    expect(new Set(shapes).size).toBe(specs.length);
    const changedClass = new Map(classes).set("gpu.kllama.ai", deviceClass("gpu.kllama.ai", "true"));
    expect(compileClaim(specs[0]!, changedClass, managed)).not.toHaveProperty("shape", shapes[0]);
  });
});

describe("a claim is refused by name:", () => {
  const request = (exact: object): DeviceRequest => ({
    name: "r",
    exactly: { deviceClassName: "gpu.kllama.ai", ...exact },
  });
  const future = (fields: object) => fields as DeviceRequest;
  const problems: [string, ResourceClaimSpec, string, string][] = [
    [
      "class that does not exist",
      claimSpec([exactly("r", 1, { deviceClassName: "none" })]),
      "NoMatchingDevice",
      'request r): DeviceClass "none" does not exist; create it',
    ],
    [
      "unknown mode",
      claimSpec([request({ allocationMode: "Some" })]),
      "UnsupportedClaim",
      'allocationMode (request r) "Some" is not known',
    ],
    ["count of 0", claimSpec([request({ count: 0 })]), "UnsupportedClaim", "count (request r) is 0; it must be"],
    ["count below 0", claimSpec([request({ count: -1 })]), "UnsupportedClaim", "is -1"],
    ["fractional count", claimSpec([request({ count: 1.5 })]), "UnsupportedClaim", "is 1.5"],
    ["33 devices", claimSpec([exactly("r", 33)]), "UnsupportedClaim", "need 33 devices, a claim holds at most 32"],
    ["33 devices in two requests", claimSpec([exactly("r", 32), exactly("q", 1)]), "UnsupportedClaim", "at most 32"],
    [
      "unknown request type",
      claimSpec([future({ name: "r", bestOf: [] })]),
      "UnsupportedClaim",
      "spec.devices.requests[0].bestOf is a feature that kllama does not support",
    ],
    ["no request type", claimSpec([{ name: "r" }]), "UnsupportedClaim", "has neither exactly nor firstAvailable"],
    [
      "unknown field in exactly",
      claimSpec([request({ derived: 1 })]),
      "UnsupportedClaim",
      "spec.devices.requests[0].exactly.derived is a feature",
    ],
    [
      "unknown field in firstAvailable",
      claimSpec([{ name: "r", firstAvailable: [{ name: "s", deviceClassName: "gpu.kllama.ai", ...{ score: 1 } }] }]),
      "UnsupportedClaim",
      "firstAvailable[0].score",
    ],
    [
      "unknown field in capacity",
      claimSpec([request({ capacity: { limits: {} } })]),
      "UnsupportedClaim",
      "exactly.capacity.limits",
    ],
    [
      "capacity that is no quantity",
      claimSpec([request({ capacity: { requests: { memory: "much" } } })]),
      "UnsupportedClaim",
      'capacity.requests[memory]: "much" is not a quantity',
    ],
    [
      "selector that is not CEL",
      claimSpec([request({ selectors: [{}] })]),
      "UnsupportedClaim",
      "exactly.selectors[0] has no cel.expression",
    ],
    [
      "unknown selector type",
      claimSpec([request({ selectors: [{ rego: "x" }] })]),
      "UnsupportedClaim",
      "selectors[0].rego is a feature",
    ],
    [
      "CEL that does not parse",
      claimSpec([exactly("r", 1, {}, "device.driver ==")]),
      "UnsupportedClaim",
      'spec.devices.requests[0].exactly.selectors[0].cel.expression "device.driver ==": ',
    ],
    [
      "CEL with an unknown function",
      claimSpec([exactly("r", 1, {}, "frobnicate(1)")]),
      "UnsupportedClaim",
      "frobnicate",
    ],
    [
      "class with an unknown CEL function",
      claimSpec([exactly("r", 1, { deviceClassName: "broken" })]),
      "UnsupportedClaim",
      'DeviceClass broken spec.selectors[0].cel.expression "frobnicate(device)"',
    ],
    [
      "constraint without attribute",
      claimSpec([exactly("r", 1)], [{}]),
      "UnsupportedClaim",
      "spec.devices.constraints[0] must set one of",
    ],
    [
      "constraint with both attributes",
      claimSpec([exactly("r", 1)], [{ matchAttribute: "a/b", distinctAttribute: "a/b" }]),
      "UnsupportedClaim",
      "constraints[0] must set one of",
    ],
    [
      "unknown constraint",
      claimSpec([exactly("r", 1)], [{ nearAttribute: "x" } as DeviceConstraint]),
      "UnsupportedClaim",
      "spec.devices.constraints[0].nearAttribute is a feature",
    ],
    [
      "constraint on an unknown request",
      claimSpec([exactly("r", 1)], [{ matchAttribute: "a/b", requests: ["x"] }]),
      "UnsupportedClaim",
      'constraints[0].requests names "x"',
    ],
    [
      "mixed drivers",
      claimSpec([exactly("r", 1), exactly("n", 1, { deviceClassName: "gpu.nvidia.com" })]),
      "MixedDrivers",
      "spec.devices.requests[1] (request n, DeviceClass gpu.nvidia.com) asks for devices of driver gpu.nvidia.com, which kllama does not manage, beside spec.devices.requests[0] (request r, DeviceClass gpu.kllama.ai) with managed ones; make two claims of it, one for each kind",
    ],
    [
      "mixed drivers in one request",
      claimSpec([
        {
          name: "r",
          firstAvailable: [
            { name: "a", deviceClassName: "gpu.kllama.ai" },
            { name: "b", deviceClassName: "gpu.nvidia.com" },
          ],
        },
      ]),
      "MixedDrivers",
      "spec.devices.requests[0] (request r/b, DeviceClass gpu.nvidia.com)",
    ],
    [
      "unknown field of the spec",
      { ...claimSpec([exactly("r", 1)]), ...{ network: {} } },
      "UnsupportedClaim",
      "spec.network is a feature",
    ],
  ];

  test.each(problems)("%s", (_, spec, reason, message) => {
    const blocking =
      reason === "NoMatchingDevice" ? [{ level: "cluster", resource: "none", needed: 1, available: 0 }] : [];
    expect(compile(spec)).toEqual({ reason, message: expect.stringContaining(message), blocking });
  });
});

test("a class that names no driver may be served by a managed one", () => {
  expect(isClaimProblem(compile(claimSpec([exactly("r", 1, { deviceClassName: "any" }), partition("m", "1g")])))).toBe(
    false,
  );
});

describe("a claim is left to kube-scheduler", () => {
  const isLeft = (spec: ResourceClaimSpec): boolean => compiled(spec).left;
  const byClass = claimSpec([exactly("r", 1, { deviceClassName: "gpu.nvidia.com" })]);

  test("when its class, or where that names no driver its own selector, names drivers that are not managed alone", () => {
    expect(isLeft(byClass)).toBe(true);
    const of = (driverName: string) =>
      claimSpec([exactly("r", 1, { deviceClassName: "any" }, `device.driver == "${driverName}"`)]);
    expect([isLeft(of("dra.net")), isLeft(of(driver))]).toEqual([true, false]);
    expect(isLeft(claimSpec([exactly("r", 1, { deviceClassName: "any" })]))).toBe(false);
  });

  test("by the drivers of the devices that it has, whatever it asks for", () => {
    const has = (...drivers: string[]) => {
      const results = drivers.map((each) => ({ request: "r", driver: each, pool: "p", device: "d" }));
      return isLeftToScheduler({ spec: byClass, allocation: { devices: { results } } }, deviceClasses(nvidia), managed);
    };
    expect([has("dra.net"), has(driver), has("dra.net", driver), has()]).toEqual([true, false, false, true]);
  });
});
