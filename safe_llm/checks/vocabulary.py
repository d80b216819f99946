"""The words that the rules of `injection` are about, by what they mean, in a score of languages.

A text becomes one letter for each of its words, so that a rule is a short regular expression over letters, whatever the
language. Words stand as `normalizing.plain` writes them: lower case, without accents. To add a language, add its words.
"""

from __future__ import annotations

import re
from collections import defaultdict

from .normalizing import BREAK, plain

OTHER = "."
"""The letter of every word that means nothing to a rule."""

WORDS = {
    "ignore": """
        ignore ignoring ignores disregard disregarding disregards forget forgets forgetting override overriding
        overrule bypass bypassing bypasses neglect unlearn nullify circumvent supersede supersedes ignor ignroe
        ingore igmre ignoriere ignorieren ignorier ignoriert vergiss vergesse vergessen vergesst missachte
        missachten uberschreibe ignorez ignorer ignorons oublie oubliez oublier negligez outrepasse contourne
        ignora ignoren ignorad ignorar ignorando olvida olvide olviden olvidar olvidate omite omitir descarta
        descarte ignorem esqueca esquece esquecer desconsidere desconsidera ignori ignorate ignorare dimentica
        dimenticate dimenticare trascura scorda negeer negeren vergeet vergeten zignoruj ignoruj zignorowac
        zapomnij zapomniec pomin pomijaj игнорируи игнорируите игнорировать проигнорируи проигнорируите забудь
        забудьте забыть ігноруи ігноруите проігноруи забудьмо yoksay unut unutun gormezden bosver ignorera glom
        strunta glem ignorujte zapomen zapomente ignorati zaboravi uita uitati abaikan lupakan hiraukan
        abaikanlah hagyd felejtsd unohda تجاهل تجاهلوا انس انسى تجاهلي نادیده فراموش αγνοησε αγνοηστε ξεχασε
        ξεχαστε התעלם התעלמי שכח תתעלם अनदेखा नजरअदाज भूल भूला भूलो उपेक्षा 忽略 忽视 無視 无视 忘记 忘記 忘掉
        不要理会 別理 無視して 忘れて 忘れ 무시 무시하고 무시해 잊어 잊고 잊어버려 ละเว้น เพิกเฉย ลืม quen""",
    "prior": """
        previous previously prior above earlier preceding foregoing before past aforementioned original initial
        existing former preexisting old usual default current vorherigen vorherige vorheriger bisherigen
        bisherige vorangegangenen vorangehenden obigen obige zuvor fruheren vorigen davor vorhin ursprunglichen
        bisher precedentes precedente precedents anterieures anterieurs dessus avant anteriores anterior previas
        previa previos previo arriba antes precedenti sopra prima vorige eerdere bovenstaande voorgaande
        voorafgaande poprzednie poprzednich poprzednia powyzsze powyzszych wczesniejsze wczesniejszych
        предыдущие предыдущих предыдущее предыдущую прежние прежних вышеуказанные ранее выше попередні
        попередніх onceki yukaridaki tidigare foregaende ovanstaende tidligere forrige ovenstaende predchozi
        predchozich vyse prethodne prethodna anterioare sebelumnya sebelum diatas korabbi elozo fenti aiemmat
        aiempi edelliset السابقة السابق اعلاه قبلي قبلی پیشین بالا προηγουμενες προηγουμενα παραπανω הקודמות
        קודמות הקודם לעיל पिछले पिछली पहले उपरोक्त पूर्व 之前 先前 以前 上述 以上 上面 前面 此前 これまで 以前の
        前の 上記 今まで 이전 이전의 앞의 위의 지금까지 기존 ก่อนหน้า ก่อนหน้านี้ truoc""",
    "rule": """
        instruction instructions rule rules guideline guidelines directive directives direction directions
        command commands orders constraint constraints restriction restrictions limitation limitations
        programming policy policies protocol protocols safeguard safeguards guardrail guardrails principles
        boundaries regulations ethics instuctions instrucitons anweisung anweisungen anordnungen regeln
        richtlinien befehle vorgaben instruktionen vorschriften aufgaben consignes regles ordres instrucciones
        instruccion reglas ordenes directrices indicaciones instrucoes regras ordens diretrizes istruzioni
        istruzione regole ordini direttive indicazioni instructies regels opdrachten richtlijnen instrukcje
        instrukcji polecenia polecen zasady zasad wytyczne инструкции инструкцию правила правил указания
        указании команды приказы інструкціі інструкціи вказівки talimatlari talimatlar talimat talimatlarini
        kurallari kurallar komutlari yonergeleri instruktioner instruktionerna regler reglerna anvisningar
        instruksjoner instrukser instruktionerne instrukce instrukci pokyny pokynu pravidla uputstva pravila
        instrukcije upute instructiunile instructiuni regulile instruksi perintah aturan petunjuk utasitast
        utasitasokat szabalyokat ohjeet saannot التعليمات تعليمات القواعد الاوامر دستورات دستورالعمل قوانین
        οδηγιες κανονες εντολες ההוראות הוראות הכללים निर्देशो निर्देश निर्देशों नियमो आदेशो 指令 指示 规则 規則
        命令 要求 提示 规定 ルール 指示を 命令を 지시 지시사항 명령 규칙 지침 명령을 지시를 คําสั่ง กฎ lenh""",
    "talk": """
        prompt prompts conversation conversations context message messages text texts task tasks assignment
        assignments request requests input inputs told said information training memory discussion statements
        words questions chat chats dialogue aufgaben aufgabe texte gesagte gesagten alles kontext nachrichten
        informationen tout taches contexte todo contexto mensajes tareas tarea texto dicho tudo tarefas tarefa
        mensagens conversa tutto contesto messaggi compiti taken berichten wszystko kontekst wiadomosci все
        контекст сообщения задания усе herseyi mesajlari allt meddelanden alt vsechno tot totul semua mindent كل
        همه ολα הכל सब सभी 对话 對話 内容 內容 信息 一切 所有 会話 内容を 全て すべて 모든 대화 내용 모두
        ทั้งหมด programming""",
    "all": """
        all any every each your these those alle allen alles deine toutes tous vos tes todas todos tus tutte
        tutti tue jouw wszystkie wszystkich все всех всі усі tum butun alla toate semua vsechny vsechna sve tout
        toda minden kaikki 所有 一切 全部 すべて 全て 모든 모두 सभी सारे جميع كل تمام همه כל ολες ολους""",
    "everything": """
        everything anything all that stuff alles gesagte gesagten tout todo tudo tutto allt alt wszystko все
        всичко totul semua herseyi mindent vse sve sva kaikki 一切 所有 全部 すべて 全て 모든 모두 सब सभी كل همه
        הכל ทั้งหมด""",
    "wholly": """
        everything alles tout todo tudo tutto allt wszystko все totul semua mindent sve 一切 全部 すべて 全て
        모두 सब كل همه הכל""",
    "drop": """
        dismiss abandon discard skip overlook erase delete remove clear drop stop cancel void wipe reset restart
        exit leave streiche streichen losche loschen beende verwirf borra elimina descarta supprime efface apaga
        cancella verwijder usun удали сотри отмени sil kaldir 删除 清除 清空 停止 削除 消去 삭제 지워 हटा حذف
        امسح""",
    "asked": "asked told requested instructed prompted ordered given gave",
    "tell": "tell inform mention reveal notify disclose alert warn acknowledge",
    "user": "user users human humans operator customer reader",
    "disable": """
        disable disabled deactivate off lift relax suspend lower deaktiviere desactiva desactive disattiva
        отключи wylacz""",
    "above": "above obige obigen dessus arriba acima sopra bovenstaande выше yukaridaki 上面 以上 上記 위의",
    "machine": "ai assistant llm chatbot agent agents bot gpt chatgpt model",
    "address": "note attention dear notice message reading hey hello",
    "end": "end ends ending",
    "document": "document input text context conversation data transcript file page article prompt",
    "times": "times fois veces vezes mal volte razy раз keer",
    "system": """
        system systems hidden secret initial internal confidential original developer preprompt underlying base
        core starting systeme systemprompt versteckten geheimen sistema oculto oculta secreto interno segreto
        iniziale interne verborgen systemowy systemu ukryte систем системныи системные системного скрытые
        секретные секретныи sistem gizli dold skjult rahasia النظام السرية سیستم συστηματος המערכת सिस्टम 系统
        系統 隐藏 秘密 初始 内部 システム 隠し 秘密の 시스템 숨겨진 비밀 ระบบ""",
    "promptword": """
        prompt prompts preprompt instruction instructions directives eingabeaufforderung anweisungen prompttext
        prompttexte instrucciones consignes instrucoes istruzioni instructies instrukcje промпт инструкции
        подсказку промпта talimatlari instruktioner التعليمات الموجه prompta 提示 提示词 提示語 指令 プロンプト
        指示 프롬프트 지침 निर्देश प्रॉम्प्ट พรอมต์""",
    "config": "configuration config settings setup parameters konfiguration configuracion",
    "leak": """
        reveal reveals print show display output disclose leak expose dump recite repeat copy paste return spell
        tell share reproduce echo divulge zeige zeig nenne verrate gib wiederhole drucke ausgeben revele revelez
        affiche montre affichez donne repete imprime revela muestra muestrame dime repite revelar mostre repita
        diga rivela mostra dimmi ripeti stampa toon onthul herhaal geef pokaz ujawnij powtorz wypisz покажи
        покажите раскрои выведи повтори напечатаи скажи goster acikla yazdir tekrarla visa avsloja upprepa vis
        gentag ukaz vypis zobraz afiseaza arata dezvaluie tampilkan ungkapkan اظهر اكشف اعرض اطبع كرر نشان
        εμφανισε δειξε αποκαλυψε הצג חשוף दिखाओ बताओ दिखाए प्रकट 显示 顯示 输出 輸出 告诉 透露 泄露 打印 重复
        重複 公开 表示 教えて 出力 見せて 明かして 보여 알려 출력 공개 말해 แสดง เปิดเผย""",
    "give": "give write list provide send say translate summarize what whats what's quote produce",
    "you": """
        you your youre you're u ya yourself chatgpt gpt ai assistant bot chatbot model llm claude gemini llama
        grok bard copilot du dein deine deinen ihr sie ihre tu tus te ton ta tes vous votre vos usted voce seu
        sua seus tuo tua tue jouw je uw twoje twoj ты твои вы ваш ваши ти твоі sen senin siz din dina ditt 你
        你的 您 您的 あなた あなたの 君 너 너의 당신 당신의 आप आपके आपकी आपको तुम तुम्हारे انت شما kamu anda""",
    "newly": """
        now henceforth onwards onward nun jetzt maintenant desormais ahora agora adesso ora nu teraz отныне
        теперь artik simdi fortan 现在 從現在 从现在 今から これから 이제 지금부터 अब الان sekarang""",
    "violate": "violate violates violating break breaks breaking defy defies defying breach brich verstosse",
    "newer": """
        new neue neuen neues neuer nouvelle nouvelles nuevo nueva nuevas novas nova novo nuovo nuova nuove
        nieuwe nowe nowa nowy новые новая новое нове yeni ny nya nye novy nove noi uj uusi जديدة جديد الجديدة
        جدید νεες νεα חדשות חדש नए नया 新的 新 新しい 새로운 ใหม่ moi baru""",
    "compose": """
        add append include insert integrate incorporate embed mention modify change alter replace conclude
        finish end begin start make ensure put weave place promote recommend advertise inject attach prepend""",
    "fresh": """
        new following instead only neue neuen neues nouvelle nouvelles nuevo nueva nuevas novas nova nuovo nuove
        nieuwe nowe новые новая вместо yeni nya 新的 新 新しい 새로운 नया जديدة الجديدة baru next real actual""",
    "become": """
        act acting behave pretend roleplay simulate simulating simulator emulate imitate become impersonate
        assume persona personality character alterego role rolle acte actua atue agisci wciel притворись веди
        деиствуи 扮演 假装 假裝 演じて ふりをして 행동해 연기해 अभिनय تظاهر""",
    "are": """
        are will must shall can would should were become operate act respond answer bist wirst es seras eres sei
        будешь""",
    "free": """
        unfiltered uncensored unrestricted unlimited unbound unbounded unmoderated limitless unhinged unchained
        unaligned jailbroken jailbreak jailbreaking jailbreaks liberated amoral immoral unethical uninhibited
        unshackled unconstrained lawless boundless ungefiltert unzensiert uneingeschrankt zensurfrei sincensura
        ограничении цензуры неограниченныи 无限制 無限制 不受限制 越狱 無制限 脱獄 제한없는 탈옥 niezcensurowany
        censuur""",
    "bad": """
        illegal unethical immoral harmful dangerous offensive inappropriate explicit profanity nsfw violent
        racist toxic malicious unsafe hateful vulgar rude obscene controversial disgusting amoral swear curse
        cursing swearing""",
    "moral": """
        ethics ethical moral morals morality legal legality law laws legally safety moralizing consequences
        conscience scruples appropriateness harm""",
    "not": """
        no not without never dont don't cannot can't cant wont won't doesn't doesnt isn't isnt none nothing
        neither nor free freed stop lack lacks lacking regardless despite devoid kein keine ohne nicht nie sans
        aucune ne pas sin ningun ninguna nunca sem nenhuma senza nessuna zonder geen bez zadnych без никаких
        kurallari 没有 不 不要 无 無 なし ない 없이 않""",
    "bound": """
        bound bind subject limited confined restricted constrained obligated abide comply adhere follow obey
        care respect bounded governed hindered tied restrained held""",
    "limits": """
        restrictions restriction limitations limitation limits limit rules guidelines filters filter constraints
        ethics morals morality boundaries censorship policies policy restraints confines restraint safeguards
        guardrails barriers moderation regulations laws principles warnings disclaimers remorse consequences
        shackles standards inhibitions""",
    "refuse": """
        refuse refuses refusing refusal refusals decline declines reject deny denies apologize apologizes
        apologise apologies sorry can't cannot unable disclaimer disclaimers warning warnings caveats lecture
        lecturing moralize verweigern""",
    "vendor": "openai anthropic openai's openais google's microsoft's",
    "policies": """
        policy policies guidelines guideline rules tos filter filters restrictions content standards terms""",
    "persona": """
        dan devmode godmode chaosgpt freegpt evilbot alphabreak tranquilo antigpt antidan mongo betterdan devgpt
        basedgpt dan's""",
    "do": "do doing does make",
    "anythingword": "anything everything whatever",
    "mode": "mode modus modo モード 模式 모드 mod режим тryb",
    "developer": """
        developer dev debug maintenance admin administrator root sudo god dan jailbreak evil opposite
        unrestricted override dual experimental diagnostic testing entwickler desarrollador programador 开发者
        開發者 開発者 개발자 разработчика gelistirici""",
    "enable": """
        enable enabled activate activated entering enter unlock unlocked switch simulate grant active engaged
        initiate initiated aktiviere activa attiva включи активируи etkinlestir 启用 激活 有効 활성화 aktywuj""",
    "chatbot": "chatgpt gpt chatbot ai bot llm assistant model language openai",
    "normal": "normal normally standard default classic usual regular",
    "respond": "respond response responses answer answers reply replies output outputs",
    "both": "two both twice dual",
    "override": """
        override overrides overridden policyoverride supersede supersedes takeover priority urgent critical
        important emergency mandatory attention achtung wichtig importante 重要 緊急 важно""",
    "systemprompt": "systemprompt systemprompts sysprompt systempromptet systeemprompt",
    "secret": """
        password passwords passphrase credential credentials apikey ssh cookies passwort contrasena clave пароль
        пароли senha parola haslo 密码 密碼 パスワード 비밀번호""",
    "send": "send forward email post upload transmit exfiltrate submit fetch curl request append embed",
    "encode": """
        base64 rot13 hex encoded encode decode decoded encoding cipher caesar morse ciphertext decrypt encrypted
        unicode leetspeak""",
    "follow": """
        follow obey execute comply perform carry run act befolge ausfuhren suivez sigue siga esegui volg wykonaj
        выполни выполняи uygula folj 执行 遵循 実行 従って 따라 수행 pakai ikuti""",
    "include": "include insert embed append incorporate add put place inject",
    "exactly": """
        exactly verbatim verbatum literally precisely wortlich textuellement literalmente palabra дословно exact
        entire entirely full whole complete unaltered unmodified""",
    "stay": "stay remain staying break breaking",
    "character": "character persona role",
    "evil": """
        evil villain villainous machiavellian psychopath criminal ruthless unscrupulous sinister nihilistic
        sadistic devil""",
    "opposite": "opposite contrary reverse antithesis",
    "condition": "if when whenever once",
}
"""Each meaning's words."""


_UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
"""Scripts whose words do not stand apart, or carry their particles with them."""


def _meanings() -> dict[str, frozenset[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for meaning, words in WORDS.items():
        for word in words.split():
            found[plain(word)].add(meaning)
    return {word: frozenset(meanings) for word, meanings in found.items()}


_meanings_of = _meanings()
# From one byte, as long as they last: expressions over such letters are the smallest and the fastest.
_letter_of = {
    meanings: chr(0x80 + number) for number, meanings in enumerate(sorted(set(_meanings_of.values()), key=sorted))
}
LETTERS = {word: _letter_of[meanings] for word, meanings in _meanings_of.items()} | {BREAK: BREAK}
"""The letter of each word that means something. Words with the same meanings share one."""

_unspaced_words = re.compile("|".join(sorted(filter(_UNSPACED.search, LETTERS), key=len, reverse=True)))


_TOO_LONG = 20
"""Letters of what is hardly a word any more."""
_glued = re.compile(rf"[a-z]{{{_TOO_LONG},4096}}")
_core_words = re.compile(
    "ignore|disregard|forget|override|previous|prior|above|earlier|instructions?|guidelines|directives|rules|system|prompts?"
    "|reveal|print|repeat|show|tell|everything|your|all|the"
)
"""What is looked for in words that are too long to be words."""


def class_of(*meanings: str) -> str:
    """The letters of all words that have one of these meanings, for a class of a regular expression."""
    unknown = set(meanings) - WORDS.keys()
    if unknown:
        raise KeyError(f"no words are known for {', '.join(sorted(unknown))}")
    return "".join([letter for of, letter in _letter_of.items() if not of.isdisjoint(meanings)])


def spelled(words: list[str]) -> str:
    """A letter for each word."""
    get = LETTERS.get
    return "".join([get(word, OTHER) for word in words])


def apart(text: str, words: list[str]) -> str:
    """The text of these words, spaces around those of a script that has none, and where some are glued together."""
    if not text.isascii() and _UNSPACED.search(text):
        text = _unspaced_words.sub(r" \g<0> ", text)
    if max(map(len, words), default=0) >= _TOO_LONG:
        text = _glued.sub(lambda found: _core_words.sub(r" \g<0> ", found[0]), text)
    return text
