// The browser of completions: filters, a list, or steps side by side.

const PAGE = 10; // questions

class Completions {
  constructor(root) {
    this.root = root;
    this.asked = {run: '', step: '', side: false, text: '', order: 'step', low: '', high: '', short: '', long: ''};
    this.shown = PAGE;
    this.runs = [];
    this.signature = '';
  }

  // New data; what a person is reading stays unless it has changed.
  update(runs) {
    const signature = JSON.stringify(runs.map(r => [r.run, r.rows.length, r.logged]));
    if (signature === this.signature) return;
    this.signature = signature;
    this.runs = runs;
    this.root.replaceChildren();
    if (!runs.length) return;
    this.asked.run = this.run().run;
    this.note = el('p', {class: 'quiet'});
    this.list = el('div');
    this.root.append(el('h2', {text: 'Completions'}), this.form(), this.note, this.list);
    this.render();
  }

  // By name: a run that has just begun may come before it.
  run() {
    return this.runs.find(r => r.run === this.asked.run) || this.runs[0];
  }

  form() {
    const change = (name, input) => {
      this.asked[name] = input.type === 'checkbox' ? input.checked : input.value;
      this.shown = PAGE;
      if (name === 'run') this.fill();
      this.render();
    };
    const field = (label, name, input, kind) => {
      input.name = name;
      if (input.type === 'checkbox') input.checked = this.asked[name];
      else input.value = this.asked[name];
      input.oninput = () => change(name, input);
      return el('label', {class: kind || ''}, label, input);
    };
    const number = (name, told) => {
      const input = el('input', {type: 'number', step: 'any', placeholder: told, 'aria-label': name + ' ' + told});
      return input;
    };
    const range = (label, from, to) => el('label', {class: 'half'}, label, el('span', {class: 'pair'}, ...[[from, 'from'], [to, 'to']].map(([name, told]) => {
      const input = number(label, told);
      input.name = name;
      input.value = this.asked[name];
      input.oninput = () => change(name, input);
      return input;
    })));
    const options = (select, pairs) => {
      select.replaceChildren(...pairs.map(([value, text]) => el('option', {value, text})));
      return select;
    };
    const runs = options(el('select'), this.runs.map(r => [r.run, r.run]));
    const steps = el('select');
    const orders = options(el('select'), [
      ['step', 'step'], ['best', 'highest reward'], ['worst', 'lowest reward'],
      ['up', 'highest advantage'], ['down', 'lowest advantage'],
      ['long', 'longest'], ['short', 'shortest']]);
    this.fill = () => {
      const found = [...new Set(this.run().rows.map(r => r.step))];
      if (!found.includes(Number(this.asked.step))) this.asked.step = '';
      options(steps, [['', 'all'], ...found.map(s => [String(s), String(s)])]);
      steps.value = this.asked.step;
    };
    this.fill();
    const side = el('button', {text: 'side by side', name: 'side', 'aria-pressed': String(this.asked.side)});
    side.onclick = () => {
      this.asked.side = !this.asked.side;
      side.setAttribute('aria-pressed', String(this.asked.side));
      this.render();
    };
    return el('div', {class: 'filters'},
      ...(this.runs.length > 1 ? [field('run', 'run', runs)] : []),
      field('step', 'step', steps, 'half'),
      field('order', 'order', orders, 'half'),
      range('reward', 'low', 'high'),
      range('length', 'short', 'long'),
      field('text', 'text', el('input', {type: 'search', placeholder: 'in prompts and completions'})),
      side);
  }

  matching() {
    const a = this.asked;
    const wanted = a.text.toLowerCase();
    // A missing reward is null, which compares as 0.
    const within = (value, low, high) =>
      (low === '' || value !== null && value >= Number(low)) &&
      (high === '' || value !== null && value <= Number(high));
    const rows = this.run().rows.filter(row =>
      (a.side || a.step === '' || row.step === Number(a.step)) &&
      within(row.reward, a.low, a.high) && within(row.length, a.short, a.long) &&
      (!wanted || [row.prompt, row.thought, row.rest].some(t => t.toLowerCase().includes(wanted))));
    const key = (name, sign) => row => row[name] === null ? Infinity : sign * row[name];
    const orders = {
      best: key('reward', -1), worst: key('reward', 1), up: key('advantage', -1),
      down: key('advantage', 1), long: key('length', -1), short: key('length', 1),
    };
    const by = orders[a.order];
    return by ? [...rows].sort((p, q) => by(p) - by(q)) : rows;
  }

  render() {
    const run = this.run();
    const rows = this.matching();
    const out = run.steps < run.logged ? ' Of ' + run.logged + ' logged steps, this file holds ' + run.steps + '.' : '';
    const part = run.each ? ' Of a step it holds the first ' + run.each + '.' : '';
    this.note.textContent = rows.length + ' of ' + run.rows.length + ' completions.' + out + part;
    this.list.replaceChildren(this.asked.side ? this.columns(rows) : this.cards(rows));
  }

  cards(rows) {
    const asked = this.together(rows);
    const found = el('div', {}, el('div', {class: 'cards'}, ...asked.slice(0, this.shown).map(r => this.card(r))));
    if (asked.length > this.shown) {
      const more = el('button', {class: 'more', text: 'show more (' + (asked.length - this.shown) + ' questions left)'});
      more.onclick = () => { this.shown += PAGE; this.render(); };
      found.append(more);
    }
    return found;
  }

  // Neighbours with the same question in the same step, as lists.
  together(rows) {
    const found = [];
    for (const row of rows) {
      const last = found[found.length - 1];
      if (last && last[0].step === row.step && last[0].prompt === row.prompt) last.push(row);
      else found.push([row]);
    }
    return found;
  }

  // The first step, the last, and between them: how the text has changed.
  columns(rows) {
    const all = [...new Set(rows.map(r => r.step))].sort((p, q) => p - q);
    const chosen = this.asked.step === '' ? [] : [Number(this.asked.step)];
    for (const share of [0, 1, 0.5, 0.25]) {
      const step = all[Math.round(share * (all.length - 1))];
      if (step !== undefined && !chosen.includes(step) && chosen.length < 4) chosen.push(step);
    }
    chosen.sort((p, q) => p - q);
    return el('div', {class: 'columns', tabindex: '0'}, ...chosen.map(step => {
      const here = this.together(rows.filter(r => r.step === step));
      return el('div', {}, ...here.slice(0, 4).map(r => this.card(r)));
    }));
  }

  // A question and its completions; equal ones are one, with their number.
  card(rows) {
    const first = rows[0], times = new Map();
    for (const row of rows) {
      const key = JSON.stringify([row.thought, row.rest, row.reward, row.advantage, row.given]);
      if (times.has(key)) times.get(key).count++;
      else times.set(key, {row, count: 1});
    }
    const count = rows.length > 1 ? rows.length + ' completions' : '';
    return el('article', {class: 'card'},
      el('div', {class: 'facts'}, el('b', {text: 'step ' + first.step}), el('span', {class: 'quiet', text: count}),
        el('span', {}, 'expected ', el('code', {text: first.expected}))),
      this.piece('prompt', first.prompt),
      el('div', {class: 'samples'}, ...[...times.values()].map(t => this.sample(t.row, t.count))));
  }

  sample(row, count) {
    const chip = (text, kind) => el('span', {class: 'chip ' + (kind || ''), text});
    const facts = [
      chip('reward ' + short(row.reward), row.parts.correct === 1 ? 'good' : ''),
      chip('advantage ' + (row.advantage > 0 ? '+' : '') + short(row.advantage)),
      chip(row.length + ' tokens'),
      ...Object.entries(row.parts).map(([name, value]) => chip(name + ' ' + short(value))),
    ];
    if (count > 1) facts.unshift(el('b', {text: '×' + count}));
    if (!row.finished) facts.push(chip('cut at the limit', 'bad'));
    if (row.given) facts.push(chip('given by a teacher'));
    const pieces = [this.piece('thought', row.thought), this.piece(row.thought ? 'after it' : 'completion', row.thought ? row.rest.replace(/^\n+/, '') : row.rest)];
    // A program is the text itself.
    const answer = row.answer === null ? [] : [el('p', {class: 'quiet'}, 'answer ', el('code', {text: row.answer || '(none found)'}))];
    return el('div', {class: 'sample'}, el('div', {class: 'facts'}, ...facts), ...pieces.filter(Boolean), ...answer);
  }

  piece(title, text) {
    if (!text) return '';
    const body = el('pre', {tabindex: '0'}, ...this.marked(text));
    return el('div', {class: 'piece'}, el('b', {text: title}), body);
  }

  // The text with what was searched for marked; nodes, never HTML.
  marked(text) {
    const wanted = this.asked.text.toLowerCase();
    if (!wanted) return [text];
    const parts = [], lower = text.toLowerCase();
    let from = 0;
    for (let at = lower.indexOf(wanted); at >= 0; at = lower.indexOf(wanted, from)) {
      parts.push(text.slice(from, at), el('mark', {text: text.slice(at, at + wanted.length)}));
      from = at + wanted.length;
    }
    return [...parts, text.slice(from)];
  }
}
