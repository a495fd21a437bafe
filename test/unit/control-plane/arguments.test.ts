import { describe, expect, test } from "vitest";
import { type ArgumentsInput, componentArguments } from "../../../tools/control-plane/arguments.ts";
import { failureMessage } from "../../../tools/control-plane/component.ts";
import { schedulerConfiguration } from "../../../tools/control-plane/configuration.ts";
import { componentNames, layout } from "../../../tools/control-plane/layout.ts";

function input(changes: Partial<ArgumentsInput> = {}): ArgumentsInput {
  return {
    layout: layout("/data"),
    ports: { apiServer: 1001, controllerManager: 1002, scheduler: 1003, kwok: 1004 },
    profile: "scale",
    featureGates: {},
    auditLog: false,
    extraArgs: {},
    ...changes,
  };
}

describe("profiles", () => {
  test("scale: no node lifecycle, so no not-ready taint and no leases either", () => {
    expect(componentArguments("kube-apiserver", input())).toContain(
      "--disable-admission-plugins=TaintNodesByCondition",
    );
    expect(componentArguments("kube-controller-manager", input())).toContain(
      "--controllers=*,-node-lifecycle-controller,-ttl-controller",
    );
    expect(componentArguments("kwok", input())).toContain("--node-lease-duration-seconds=0");
  });

  test("chaos: all three as in a real cluster, with time for a lease to be renewed", () => {
    const chaos = input({ profile: "chaos" });
    expect(componentArguments("kube-apiserver", chaos).join(" ")).not.toContain("--disable-admission-plugins");
    expect(componentArguments("kube-controller-manager", chaos).join(" ")).not.toContain("--controllers");
    expect(componentArguments("kube-controller-manager", chaos)).toContain("--node-monitor-grace-period=200s");
    expect(componentArguments("kwok", chaos)).toContain("--node-lease-duration-seconds=200");
  });
});

test.each(componentNames)("%s listens on loopback or a socket only", (name) => {
  const listening = componentArguments(name, input()).filter((argument) =>
    /listen-|bind-address|server-address/.test(argument),
  );
  expect(listening.length).toBeGreaterThan(0);
  for (const argument of listening) expect(argument).toMatch(/=(127\.0\.0\.1|unix:)/);
});

test("authorization is on and nobody is exempt from it", () => {
  const args = componentArguments("kube-apiserver", input());
  expect(args).toContain("--authorization-mode=Node,RBAC");
  expect(args.join(" ")).not.toContain("AlwaysAllow");
});

test("feature gates go to the three Kubernetes components, a caller's arguments come last", () => {
  const changed = input({ featureGates: { A: true, B: false }, extraArgs: { "kube-apiserver": ["--v=4"] } });
  for (const name of ["kube-apiserver", "kube-controller-manager", "kube-scheduler"] as const) {
    expect(componentArguments(name, changed)).toContain("--feature-gates=A=true,B=false");
  }
  expect(componentArguments("kube-apiserver", changed).at(-1)).toBe("--v=4");
  expect(componentArguments("etcd", changed).join(" ")).not.toContain("feature-gates");
});

test("the audit log is never rotated away", () => {
  expect(componentArguments("kube-apiserver", input()).join(" ")).not.toContain("audit");
  const audited = componentArguments("kube-apiserver", input({ auditLog: true }));
  expect(audited).toContain("--audit-log-path=/data/audit.log");
  expect(audited).toContain("--audit-log-maxsize=100000");
});

test("kube-scheduler keeps its own default for what the caller leaves out", () => {
  const kept = schedulerConfiguration("/kubeconfig", {});
  expect(Object.keys(kept).sort()).toEqual(["apiVersion", "clientConnection", "kind", "leaderElection"]);
  const extenders = [{ urlPrefix: "https://127.0.0.1:1", filterVerb: "filter", nodeCacheCapable: true }];
  expect(schedulerConfiguration("/kubeconfig", { extenders, percentageOfNodesToScore: 100 })).toMatchObject({
    extenders,
    percentageOfNodesToScore: 100,
  });
});

test("files of odd user names stay in their folder", () => {
  expect(layout("/data").kubeconfig("user.../../x")).toBe("/data/kubeconfigs/user...%2F..%2Fx.yaml");
});

describe("a component that does not start", () => {
  const spec = { name: "kwok", command: "", args: [], cwd: "", logPath: "/data/logs/kwok.log" };
  test("says how it ended and shows the end of its log", () => {
    const log = Array.from({ length: 40 }, (_, line) => `line ${line}`).join("\n");
    const message = failureMessage(spec, { code: 1, signal: null }, `${log}\n`);
    expect(message).toMatch(/^kwok ended with code 1 before it was ready\. .*\/data\/logs\/kwok\.log/);
    expect(message).toContain("line 39");
    expect(message).not.toContain("line 24\n");
  });
  test("or that it never became ready", () => {
    expect(failureMessage(spec, undefined, "")).toContain("did not become ready within 90 s");
    expect(failureMessage(spec, { code: null, signal: "SIGKILL" }, "")).toContain("ended with SIGKILL");
  });
});
