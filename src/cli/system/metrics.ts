import { Agent, request } from "undici";
import type { ExtenderAccess } from "./system.ts";

/** The planner's metrics in Prometheus' text format, read with kube-scheduler's certificate. */
export async function plannerMetrics(access: ExtenderAccess): Promise<string> {
  const agent = new Agent({ connect: access.client });
  try {
    const { statusCode, body } = await request(`${access.url}/metrics`, { dispatcher: agent });
    const text = await body.text();
    if (statusCode !== 200) throw new Error(`the planner's metrics: HTTP ${statusCode}: ${text.slice(0, 200)}`);
    return text;
  } finally {
    await agent.close();
  }
}

/** Sums the series of a metric over their labels; `label` (`reason="x"`) picks those that have it. */
export function sumSeries(text: string, name: string, label = ""): number {
  return text
    .split("\n")
    .filter((line) => (line.startsWith(`${name}{`) || line.startsWith(`${name} `)) && line.includes(label))
    .reduce((total, line) => total + Number(line.slice(line.lastIndexOf(" ") + 1)), 0);
}
