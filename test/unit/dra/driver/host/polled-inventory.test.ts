import { expect, test } from "vitest";
import { type Look, pollInventory } from "../../../../../src/dra/driver/host/polled-inventory.ts";
import { devicesByGpu, type Gpu, isGone } from "../../../../../src/dra/driver/inventory.ts";
import { createVirtualTiming } from "../../../../support/virtual-timing.ts";

const refreshMs = 60_000;
const gpu = (uuid: string, minor: number): Gpu => ({
  ...{ uuid, minor, productName: "board", memoryBytes: 2 ** 30, pciBusID: `0000:0${minor}:00.0` },
});
const look = (gpus: readonly Gpu[], unreadable: Look["unreadable"] = []): Look => ({
  ...{ gpus, troubles: new Map(), unreadable },
});

test.for<[string, Look, boolean]>([
  ["is gone", look([gpu("GPU-b", 0)]), true],
  ["cannot be read", look([gpu("GPU-b", 0)], [{ uuid: "GPU-a", why: "broken" }]), false],
  ["may be the one that cannot be read", look([gpu("GPU-b", 0)], [{ why: "broken" }]), false],
])("a board that %s gives its name up to the one that has its number by now", async ([, later, gone]) => {
  const timing = createVirtualTiming();
  const looks = [look([gpu("GPU-a", 0), gpu("GPU-b", 1)]), later];
  const polled = pollInventory({
    look: async () => looks.shift() ?? later,
    ...{ timing, refreshMs, onWarning: () => undefined },
  });
  await timing.advance(0);
  expect(polled.inventory().gpus).toHaveLength(2);
  await timing.advance(refreshMs);
  const inventory = polled.inventory();
  const devices = devicesByGpu(inventory.gpus).flatMap((group) => group.map((each) => [each.name, each.gpu.uuid]));
  expect(devices).toEqual([["gpu-0", "GPU-b"]]);
  expect([inventory.losses, inventory.troubles]).toEqual([{}, {}]);
  expect(isGone("GPU-a", inventory)).toBe(gone);
  await polled.close();
});
