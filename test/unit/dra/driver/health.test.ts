import { expect, test } from "vitest";
import type { DeviceHealthMessage } from "../../../../src/dra/driver/grpc.ts";
import { watchHealth } from "../../../../src/dra/driver/health.ts";
import type { Inventory } from "../../../../src/dra/driver/inventory.ts";
import type { Machine } from "../../../../src/dra/driver/machine.ts";
import { node } from "../../../support/driver.ts";
import { machineGpus } from "../../../support/machine-gpus.ts";
import { createVirtualTiming } from "../../../support/virtual-timing.ts";

const since = "2026-01-01T00:00:00Z";

function open() {
  const timing = createVirtualTiming();
  const heard: { atMs: number; devices: DeviceHealthMessage[] }[] = [];
  const listeners = new Set<() => void>();
  let inventory: Inventory = { gpus: machineGpus("h100-pcie"), losses: {} };
  const machine = {
    inventory: () => inventory,
    onChange(listener: () => void) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  } as Machine;
  const stop = watchHealth(machine, node, timing, (devices) => heard.push({ atMs: timing.nowMs(), devices }));
  return {
    ...{ timing, heard, listeners, stop },
    set(next: Partial<Inventory>) {
      inventory = { ...inventory, ...next };
      for (const listener of listeners) listener();
    },
  };
}

test("every device is told again at least every ten seconds, with the time of the telling, until the kubelet leaves", async () => {
  const { timing, heard, listeners, stop } = open();
  await timing.advance(60_000);
  const gapsMs = heard.slice(1).map(({ atMs }, index) => atMs - heard[index]!.atMs);
  expect(heard.length).toBeGreaterThan(6);
  for (const gapMs of gapsMs) expect(gapMs).toBeLessThanOrEqual(10_000);
  for (const { devices } of heard) expect(devices).toHaveLength(4);
  expect(heard.at(-1)!.devices[0]!.last_updated_time).toBeGreaterThan(heard[0]!.devices[0]!.last_updated_time + 50);
  stop();
  const before = heard.length;
  await timing.advance(60_000);
  expect(heard).toHaveLength(before);
  expect(listeners.size).toBe(0);
});

test("a change is told at once, with what is wrong and since when, at most as long as the kubelet reads", async () => {
  const { heard, set, stop } = open();
  const trouble = { key: "xid", value: "79", since, message: "x".repeat(2_000) } as const;
  const foreign = { key: "foreign-partition", value: "gi-1", since, message: "in the way", healthy: true } as const;
  set({ losses: { "gpu-1": { how: "remove", since } }, troubles: { "gpu-2": [trouble], "gpu-3": [foreign] } });
  const told = heard.at(-1)!.devices;
  expect(told.map(({ device, health }) => `${device.device_name} ${health}`)).toEqual([
    "gpu-0 HEALTHY",
    "gpu-1 UNHEALTHY",
    "gpu-2 UNHEALTHY",
    "gpu-3 HEALTHY",
  ]);
  expect(told[1]?.message).toBe(`lost since ${since}`);
  expect(told[2]?.message).toHaveLength(1_024);
  stop();
});

test("what nobody could read of late is unknown, but for what was known to be broken", () => {
  const { heard, set, stop } = open();
  const ill = { key: "ecc", value: "uncorrected", since, message: "2 errors" } as const;
  const unreadable = { key: "unreadable", value: "error", since, message: "cannot be read", unknown: true } as const;
  const states = () => heard.at(-1)!.devices.map(({ health }) => health);
  set({
    troubles: { "gpu-0": [unreadable], "gpu-1": [unreadable, ill] },
    losses: { "gpu-2": { how: "taint", since } },
  });
  expect(states()).toEqual(["UNKNOWN", "UNHEALTHY", "UNHEALTHY", "HEALTHY"]);
  set({ stale: "NVML does not answer" });
  expect(states()).toEqual(["UNKNOWN", "UNHEALTHY", "UNHEALTHY", "UNKNOWN"]);
  expect(heard.at(-1)!.devices[3]?.message).toBe("cannot be read: NVML does not answer");
  stop();
});
