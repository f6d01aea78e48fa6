'use strict';
// Charts of the report. Everything of a model reaches the page as textContent.

const PALETTE = {
  light: ['#0b62b8', '#d1521a', '#1b8a5a', '#a4349b', '#8a6d00', '#0f8fa8', '#c2264b', '#5b53c7', '#5f6b73', '#7a4a1e'],
  dark: ['#6db3ff', '#ff9a5c', '#5fd39b', '#e58be0', '#e3c04a', '#59cfe6', '#ff859f', '#aaa4ff', '#aab4bb', '#d6a272'],
};
const LINE_OF = [[], [7, 4], [2, 3]];
const dark = matchMedia('(prefers-color-scheme: dark)');

function el(tag, options, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options || {})) {
    if (name === 'text') node.textContent = value;
    else if (name === 'style') Object.assign(node.style, value);
    else if (name.startsWith('on')) node[name] = value;
    else if (value !== null && value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function colour(index) {
  const colours = PALETTE[dark.matches ? 'dark' : 'light'];
  return colours[index % colours.length];
}

// Past the last colour, dashes tell lines apart.
function dash(index) {
  return LINE_OF[Math.floor(index / PALETTE.light.length) % LINE_OF.length];
}

function swatch(index) {
  return el('i', {class: 'swatch', style: {background: colour(index)}});
}

function short(value) {
  if (value === null || value === undefined) return '–';
  if (typeof value !== 'number') return String(value);
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(1);
  // The unit of what is left when rounded: 999,600 is 1.00M.
  const unit = [[1e12, 'T'], [1e9, 'G'], [1e6, 'M'], [1e3, 'k']].find(([of]) => size >= 0.9995 * of);
  if (size >= 1e4) return (value / unit[0]).toPrecision(3) + unit[1];
  if (size >= 100) return String(Number(value.toFixed(size >= 1e3 ? 0 : 1)));
  return String(Number(value.toPrecision(3)));
}

// An exponential average over steps, as points may lie apart; of the past and
// of the future, so that a trend is not shown late.
function smoothed(x, y, share) {
  const tau = share / 100 * (x[x.length - 1] - x[0]);
  if (x.length < 30 || tau <= 0) return y;
  const pass = (from, to, by) => {
    const found = [];
    let mean = y[from];
    for (let i = from; i !== to; i += by) {
      const keep = i === from ? 0 : Math.exp(-Math.abs(x[i] - x[i - by]) / tau);
      mean = keep * mean + (1 - keep) * y[i];
      found[i] = mean;
    }
    return found;
  };
  const past = pass(0, y.length, 1), future = pass(y.length - 1, -1, -1);
  return past.map((value, i) => (value + future[i]) / 2);
}

// A group by its runs: a new one may come before it, and have its short name.
function nameOf(group) {
  return group.runs.map(run => run.name).join();
}

class Charts {
  constructor() {
    this.hidden = new Set();
    this.log = new Set();
    this.smooth = 1.5;
    this.plots = [];
    this.zoom = null;
    this.drawing = 0;
    this.resized = new ResizeObserver(entries => {
      for (const {target, contentRect} of entries) {
        const plot = target.plot;
        const width = Math.floor(contentRect.width);
        if (plot && width && width !== plot.width) plot.setSize({width, height: plot.height});
      }
    });
  }

  clear() {
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
    this.resized.disconnect();
  }

  // A chart's card, to be drawn once it is in the page.
  card(chart, groups) {
    const told = el('div', {class: 'told', 'aria-hidden': 'true'});
    const at = el('div', {class: 'plot', role: 'img'});
    const card = el('article', {class: 'chart', id: chart.metric === 'words' ? null : 'chart:' + chart.metric});
    const logs = el('button', {text: 'log', title: 'logarithmic axis'});
    logs.onclick = () => {
      if (!this.log.delete(chart.title)) this.log.add(chart.title);
      draw();
    };
    const note = chart.note ? ' · ' + chart.note : '';
    card.append(
      el('header', {}, el('h3', {text: chart.title}), logs),
      el('p', {class: 'quiet'}, el('code', {text: chart.metric}), note), at, told);
    let plot = null;
    const draw = () => {
      logs.setAttribute('aria-pressed', this.log.has(chart.title));
      if (plot) {
        this.plots.splice(this.plots.indexOf(plot), 1);
        plot.destroy();
      }
      plot = at.plot = this.draw(chart, groups, at, told);
      if (plot) this.plots.push(plot);
    };
    return {card, draw};
  }

  draw(chart, groups, at, told) {
    const own = chart.curves.some(curve => curve.label);
    const curves = chart.curves.filter(curve => !this.hidden.has(nameOf(groups[curve.group])));
    told.replaceChildren();
    if (!curves.length) return null;
    const logarithmic = this.log.has(chart.title);
    // There is no logarithm of 0.
    const clean = values => logarithmic ? values.map(v => v > 0 ? v : null) : values;
    const tables = [], series = [{}], bands = [], lines = [];
    curves.forEach(curve => {
      const index = own ? chart.curves.indexOf(curve) : curve.group;
      const stroke = colour(index);
      const smooth = smoothed(curve.x, curve.y, this.smooth);
      const table = [curve.x];
      if (curve.low) {
        bands.push({series: [series.length + 1, series.length], fill: stroke + '2e'});
        for (const edge of [curve.low, curve.high]) {
          table.push(clean(edge));
          series.push({stroke: stroke + '00', width: 0, points: {show: false}});
        }
      } else if (smooth !== curve.y) {
        table.push(clean(curve.y));
        series.push({stroke: stroke + '4d', width: 1, points: {show: false}});
      }
      table.push(clean(smooth));
      // A chart may be of one of several groups.
      lines.push({index, name: curve.label || (groups.length > 1 ? groups[curve.group].name : ''), at: series.length, curve});
      series.push({
        stroke, width: 2, dash: dash(index),
        points: {show: curve.x.length < 15, size: 5, fill: stroke},
      });
      tables.push(table);
    });
    const css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue('--quiet').trim();
    const grid = {stroke: css.getPropertyValue('--grid').trim(), width: 1};
    const font = '11px system-ui, sans-serif';
    const axis = {stroke: ink, grid, ticks: {...grid, size: 4}, font};
    const joined = uPlot.join(tables);
    // uPlot sets scales after this task; those of a new plot are no zoom.
    this.drawing++;
    setTimeout(() => this.drawing--);
    const plot = new uPlot({
      width: Math.max(at.clientWidth, 120), height: 210, series, bands,
      legend: {show: false}, padding: [8, 18, 0, 0],
      scales: {x: {time: false}, y: {distr: logarithmic ? 3 : 1}},
      axes: [
        {...axis, size: 26, space: 60, values: (u, ticks) => ticks.map(t => Number.isInteger(t) ? short(t) : '')},
        {...axis, size: 50, values: (u, ticks) => ticks.map(t => t === null ? '' : short(t))},
      ],
      cursor: {sync: {key: 'step'}, y: false, points: {show: false}, drag: {x: true, y: false}},
      hooks: {
        setCursor: [u => this.tell(u, lines, told)],
        setScale: [(u, key) => this.zoomed(u, key)],
      },
    }, joined, at);
    if (this.zoom) plot.setScale('x', this.zoom);
    this.resized.observe(at);
    this.tell(plot, lines, told);
    const last = lines.map(l => (l.name && l.name + ' ') + short(l.curve.y[l.curve.y.length - 1]));
    at.setAttribute('aria-label', chart.title + ', last: ' + last.join(', '));
    return plot;
  }

  // What is zoomed to outlives a redrawing.
  zoomed(plot, key) {
    if (key !== 'x' || this.drawing) return;
    const steps = plot.data[0];
    const {min, max} = plot.scales.x;
    this.zoom = min <= steps[0] && max >= steps[steps.length - 1] ? null : {min, max};
  }

  // The values under the cursor, or else the last ones.
  tell(plot, lines, told) {
    const index = plot.cursor.idx;
    const here = index !== null && index !== undefined && plot.cursor.left >= 0;
    const steps = plot.data[0];
    const most = 10;
    const shown = lines.slice(0, most).map(line => {
      const {x, y} = line.curve;
      let i = x.length - 1;
      if (here) while (i > 0 && x[i] > steps[index]) i--;
      const name = line.name && line.name + ' ';
      // Before its first step, or past its last.
      const value = here && (x[i] > steps[index] || steps[index] > x[x.length - 1]) ? null : y[i];
      let text = name + short(value);
      if (line.curve.low && value !== null && line.curve.low[i] !== line.curve.high[i]) {
        text += ' (' + short(line.curve.low[i]) + ' to ' + short(line.curve.high[i]) + ')';
      }
      return el('span', {}, swatch(line.index), text);
    });
    const step = here ? 'step ' + steps[index] : 'last';
    const rest = lines.length > most ? [el('span', {class: 'quiet', text: lines.length - most + ' more: hide some above'})] : [];
    told.replaceChildren(el('span', {class: 'quiet', text: step}), ...shown, ...rest);
  }
}
