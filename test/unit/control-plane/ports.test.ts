import { expect, test } from "vitest";
import { freePorts, givenPorts } from "../../../tools/control-plane/ports.ts";

test("ports of servers are none that Linux gives to connections, where it leaves others", async () => {
  const [lowest, highest] = givenPorts() ?? [49_152, 65_535];
  const leavesOthers = lowest > 29_999 || highest < 15_000;
  const ports = await freePorts(50);
  expect(ports.every((port) => port < lowest || port > highest)).toBe(leavesOthers);
});

test("ports of servers are different ones, also where one is taken", async () => {
  expect(new Set(await freePorts(500)).size).toBe(500);
});
